"""Data sets of torchvision: `torchvision:CIFAR10`, or `torchvision:CIFAR10@FOLDER`.

Any class of `torchvision.datasets` that takes `root` and either `train` or `split` and gives one
class number per picture. Files that are missing in the folder are fetched; torchvision checks them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from distill.data.decode import UnreadableImageError
from distill.data.sources import Item, Source
from distill.errors import UserError, install_command
from distill.files import downloads
from distill.lock import lock

# What torchvision calls each split; the first that a data set knows is taken.
WORDS = {
    "train": ("train", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}

LICENSES = {
    "EuroSAT": "mit",
    "FashionMNIST": "mit",
    "KMNIST": "cc-by-sa-4.0",
    "OxfordIIITPet": "cc-by-sa-4.0",
}


def open_source(rest: str) -> Source:
    """Lists a data set of torchvision in its own splits, which are held in memory as it holds them.

    Args:
        rest: `NAME` or `NAME@FOLDER`; without a folder, `$DISTILLATE_HOME` or
            `~/.cache/distillate`.

    Raises:
        UserError: No such data set, or it cannot be fetched, or is no classification set.
    """
    name, _, folder = rest.partition("@")
    root = Path(folder).expanduser() if folder else downloads()
    where = f"torchvision:{rest}"
    kind, parameters = _data_set(name, where)
    splits = _splits(kind, parameters, root, where)
    labels = {split: _labels(dataset, where) for split, dataset in splits.items()}
    classes = _classes(splits, labels)
    content = json.dumps([name, classes, labels])
    return Source(
        location=where,
        classes=classes,
        items=tuple(
            Item(f"{split}/{number:06d}", label, split)
            for split, column in labels.items()
            for number, label in enumerate(column)
        ),
        read=_PictureReader(splits),
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )


def license_of(rest: str) -> str:
    """What the makers of a data set state; empty of those that state nothing, as CIFAR-10's."""
    return LICENSES.get(rest.partition("@")[0], "")


@dataclass(frozen=True)
class _PictureReader:
    """Reads single pictures, as torchvision decodes them."""

    splits: dict[str, Any]

    def __call__(self, item: Item) -> Image.Image:
        split, _, number = item.name.partition("/")
        try:
            picture = self.splits[split][int(number)][0]
        except MemoryError:
            raise
        except Exception as error:  # of Pillow's on bad bytes, nearly every built-in type
            if isinstance(error, OSError) and error.errno:  # of the disk, not of the picture
                raise
            raise UnreadableImageError(f"{type(error).__name__}: {error}") from None
        if not isinstance(picture, Image.Image):
            raise UnreadableImageError(f"a {type(picture).__name__}, no picture")
        return picture


def _data_set(name: str, where: str) -> tuple[Any, frozenset[str]]:
    """A class of torchvision's and what its constructor takes."""
    try:
        from torchvision import datasets
    except ImportError:
        raise UserError("torchvision is not installed", where, install_command("train")) from None
    usable = {}
    for class_name in datasets.__all__:
        if inspect.isclass(getattr(datasets, class_name)):
            taken = inspect.signature(getattr(datasets, class_name)).parameters
            if "root" in taken and {"train", "split"} & set(taken) and not _demands(taken):
                usable[class_name] = frozenset(taken)
    if name not in usable:
        known = {class_name.lower(): class_name for class_name in usable}
        hint = "name a class of torchvision.datasets, such as CIFAR10, Food101 or OxfordIIITPet"
        if name.lower() in known:
            hint = f"write torchvision:{known[name.lower()]}"
        raise UserError(f"no data set {name!r} of torchvision with splits", where, hint)
    return getattr(datasets, name), usable[name]


def _demands(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """Options without a default that we have no value for."""
    return [
        option.name
        for option in parameters.values()
        if option.default is option.empty
        and option.kind is not option.VAR_KEYWORD
        and option.name != "root"
    ]


def _splits(kind: Any, parameters: frozenset[str], root: Path, where: str) -> dict[str, Any]:
    if "train" in parameters:
        choices: dict[str, list[dict[str, Any]]] = {
            "train": [{"train": True}],
            "test": [{"train": False}],
        }
    else:
        choices = {split: [{"split": word} for word in words] for split, words in WORDS.items()}
    fetches = "download" in parameters
    opened = {}
    for split, options in choices.items():
        for option in options:
            dataset = _open_split(kind, root, option, fetches, where)
            if dataset is not None:
                opened[split] = dataset
                break
    if "train" not in opened:
        raise UserError(
            f"no split for training among {sorted(opened)}", where, "choose another set"
        )
    return opened


def _open_split(kind: Any, root: Path, option: dict[str, Any], fetches: bool, where: str) -> Any:
    """A split, fetched if its files are not there; None if the data set has no such split."""
    try:
        try:
            return kind(str(root), **option)
        except (RuntimeError, OSError):  # not there, or not whole
            if not fetches:
                raise
            root.mkdir(parents=True, exist_ok=True)
            with lock(root / f".{kind.__name__}.lock"):  # others wait, and find it there
                return kind(str(root), **option, download=True)
    except ValueError as error:
        word = option.get("split")
        if word and f"'{word}'" in str(error):
            return None
        raise UserError(f"not usable: {error}", where, "choose another set") from error
    except Exception as error:  # whatever the readers of its many formats raise on bad files
        said = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"neither in {root} nor to be fetched: {said}"
        call = f"torchvision.datasets.{kind.__name__}(FOLDER{', download=True' if fetches else ''})"
        hint = f"fetch it elsewhere ({call}), copy the folder, name it after an @"
        raise UserError(what, where, hint) from error


def _labels(dataset: Any, where: str) -> list[int]:
    """The label of every picture, where possible without decoding any."""
    columns = [getattr(dataset, name, None) for name in ("targets", "_labels", "labels")]
    for pairs in (getattr(dataset, name, None) for name in ("_samples", "samples")):
        columns.append(None if pairs is None else [pair[1] for pair in pairs])
    for column in columns:
        if column is not None and len(column) == len(dataset):
            break
    else:
        column = [dataset[number][1] for number in range(len(dataset))]
    try:
        labels = [int(label) for label in column]
        same = labels[0] == int(dataset[0][1])
    except (TypeError, ValueError, IndexError):
        same = False
    if not same:
        hint = "choose a set for classification"
        raise UserError("its labels are no class numbers", where, hint) from None
    return labels


def _classes(splits: dict[str, Any], labels: dict[str, list[int]]) -> tuple[str, ...]:
    """Names of the classes, numbers if the set has none.

    Synonyms are joined, and classes of one name (ImageNet's two cranes) get their number.
    """
    names = getattr(splits["train"], "classes", None)
    if names is None:
        names = range(max(max(column) for column in labels.values()) + 1)
    names = [", ".join(n) if isinstance(n, tuple | list) else str(n) for n in names]
    count = Counter(names)
    return tuple(n if count[n] == 1 else f"{n} {number}" for number, n in enumerate(names))

"""The runtime side: a shipped ONNX file and pictures to labels. Never imports torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distill.config import TaskName
from distill.data.decode import (
    InputSpec,
    UnreadableImageError,
    heif_left_out,
    image_endings,
    to_pixels,
    warn_of_heif,
)
from distill.data.walk import files_below
from distill.errors import UserError, first_line, printable, unprintable
from distill.runtime.shipped import shipped_file
from distill.scoring.tasks import task_of

Probs = NDArray[np.float32]
REQUIRED = ("names", "task", "input_spec", "thresholds")
CHECKED = (*REQUIRED, "metrics", "precision")
SLACK = 1e-3  # by which a probability may lie outside [0, 1]: halves round


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture.

    Attributes:
        path: Where the picture came from, or None.
        labels: The class of a single-label model, the classes above their thresholds of a
            multi-label one; empty where it abstained.
        prob: Probability of the first label, or of the likeliest class where it abstained.
        probs: Probability of every class.
        abstained: No class reached its threshold.
    """

    path: str | None
    labels: tuple[str, ...]
    prob: float
    probs: dict[str, float]
    abstained: bool

    def __str__(self) -> str:
        """The answer with its probabilities, in one line."""
        if self.abstained:
            likeliest = max(self.probs, key=lambda name: self.probs[name])
            return f"no label is confident, likeliest {likeliest} {100 * self.prob:.1f} %"
        return ", ".join(f"{name} {100 * self.probs[name]:.1f} %" for name in self.labels)


class Predictor:
    """A shipped ONNX file, ready to use.

    Args:
        path: The file, or an experiment that has one; everything else is in its metadata.
        threads: Threads within an operator; 0 leaves it to onnxruntime.

    Attributes:
        task: `single`, one label per picture, or `multi`, any number of them.
        thresholds: What each class's probability must reach, `(classes,)`; for a class without
            one 0.5 in `multi`, and 0 in `single`.

    Raises:
        UserError: No such file, not an ONNX file, cut short, or not one of ours.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        self.path, self._threads = shipped_file(Path(path)), threads
        self.session = open_session(self.path, threads)
        self.metadata = read_metadata(self.session, self.path)
        self.names = tuple(self.metadata["names"])
        self.task: TaskName = self.metadata["task"]
        self.spec = read_spec(self.session, self.metadata, self.path)
        thresholds, default = self.metadata["thresholds"], task_of(self.task).threshold
        self.thresholds = np.asarray(
            [thresholds.get(name, default) for name in self.names], np.float32
        )

    def __reduce__(self) -> tuple[type[Predictor], tuple[Path, int]]:
        """How it travels to other processes: each opens the file for itself."""
        return type(self), (self.path, self._threads)

    @property
    def tuned(self) -> NDArray[np.float32] | None:
        """The thresholds, None where the file has none of its own."""
        return self.thresholds if self.metadata["thresholds"] else None

    def predict(self, images: Any, batch_size: int = 32) -> list[Prediction]:
        """Labels of pictures.

        Args:
            images: One picture or several: paths, encoded bytes, open files, PIL images, uint8
                arrays `(h, w, 3)` or `(h, w)`, or one uint8 batch `(n, h, w, 3)`.

        Raises:
            UnreadableImageError: One of them is no picture; of several it says which.
            OSError: The file of one cannot be read now.
        """
        items = _as_list(images)
        results = []
        for start in range(0, len(items), batch_size):
            chunk = items[start : start + batch_size]
            probs = self.probs(
                np.stack([self._pixels(items, start + i) for i in range(len(chunk))])
            )
            results += [self._decide(item, row) for item, row in zip(chunk, probs, strict=True)]
        return results

    def _pixels(self, items: list[Any], index: int) -> NDArray[np.uint8]:
        item = items[index]
        try:
            return to_pixels(item, self.spec)
        except UnreadableImageError as error:
            if len(items) == 1:
                raise
            name = f" ({item})" if isinstance(item, str | Path) else ""
            raise UnreadableImageError(f"picture {index}{name}: {error}") from None

    def probs(self, pixels: NDArray[np.uint8]) -> Probs:
        """Probabilities `(batch, classes)` of pixels, uint8 `(batch, height, width, 3)`."""
        result: Probs = session_probs(self.session, pixels, self.path)
        check_probs(result, self.names, self.path, len(pixels))
        return result

    def _decide(self, item: Any, row: Probs) -> Prediction:
        above = row >= self.thresholds
        if self.task == "single":
            chosen = [int(row.argmax())] if above[row.argmax()] else []
        else:
            chosen = sorted(np.flatnonzero(above).tolist(), key=lambda i: -row[i])
        return Prediction(
            path=str(item) if isinstance(item, str | Path) else None,
            labels=tuple(self.names[i] for i in chosen),
            prob=float(row[chosen[0]] if chosen else row.max()),
            probs={name: float(p) for name, p in zip(self.names, row, strict=True)},
            abstained=not chosen,
        )


def open_session(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU.

    Raises:
        UserError: No such file, or onnxruntime cannot read it.
    """
    import onnxruntime as ort

    if path.is_dir():
        hint = "name an .onnx file, or an experiment that has exported: distill run DATA"
        raise UserError("no shipped file in this folder", str(path), hint)
    if not path.is_file():
        raise UserError("no such file", str(path), "name an .onnx file or an experiment")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        reason = first_line(error)
        hint = "it may be cut short: export it again"
        raise UserError(f"not a usable ONNX file ({reason})", str(path), hint) from None


class _Metadata(BaseModel):
    """What the metadata of a shipped file has to be."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    names: Annotated[list[str], Field(min_length=1)]
    task: TaskName
    input_spec: InputSpec
    thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]]
    metrics: dict[str, Any] | None = None
    precision: Annotated[str, Field(max_length=20, pattern=r"^[A-Za-z0-9._-]*$")] | None = None

    @model_validator(mode="after")
    def _names_are_names(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError("names: two classes have the same")
        if odd := [name for name in self.names if unprintable(name)]:
            raise ValueError(f"names: {printable(odd[0])!r} does not show")
        if unknown := self.thresholds.keys() - set(self.names):
            raise ValueError(f"thresholds: no class {printable(min(unknown))!r}")
        return self


def read_metadata(session: Any, path: Path) -> dict[str, Any]:
    """The metadata of a shipped file, decoded from JSON.

    Raises:
        UserError: A key that every shipped file has is missing, or means nothing.
    """
    metadata, hint = metadata_of(session), "use a file that `distill export` wrote"
    missing = [key for key in REQUIRED if key not in metadata]
    if missing:
        raise UserError(f"no metadata {missing[0]!r} in it", str(path), hint)
    try:
        _Metadata.model_validate_json(json.dumps({key: metadata.get(key) for key in CHECKED}))
    except (ValidationError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            problem = error.errors()[0]
            key = ".".join(str(place) for place in problem["loc"])
            reason = f"{key} {problem['msg']}".strip().removeprefix("Value error, ")
        raise UserError(f"its metadata makes no sense, {reason}", str(path), hint) from None
    return metadata


def read_spec(session: Any, metadata: dict[str, Any], path: Path) -> InputSpec:
    """How pictures become the input of a shipped file.

    Raises:
        UserError: The input is not uint8 `image` of the size that the metadata says, or what it
            answers to a grey picture is not a probability per class.
    """
    inputs, outputs = ends_of(session, path)
    ends = {value["name"]: value["type"] for value in (*inputs, *outputs)}
    shape = inputs[0]["shape"][1:] if inputs else []
    hint = "use a file that `distill export` wrote"
    spec = InputSpec.model_validate(metadata["input_spec"])
    if ends.get("image") != "tensor(uint8)" or "prob" not in ends:
        raise UserError(f"takes and gives {', '.join(ends)}", str(path), hint)
    if shape != [spec.height, spec.width, 3]:
        what = f"takes {shape}, but its metadata says {spec.height} x {spec.width}"
        raise UserError(what, str(path), hint)
    grey = np.full((2, *shape), 128, np.uint8)
    check_probs(session_probs(session, grey, path), metadata["names"], path, len(grey))
    return spec


def ends_of(session: Any, path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Name, type and shape of a file's inputs and outputs.

    Raises:
        UserError: One of them has a name that is no text.
    """
    try:
        inputs, outputs = (
            [{"name": v.name, "type": v.type, "shape": list(v.shape)} for v in values]
            for values in (session.get_inputs(), session.get_outputs())
        )
    except UnicodeDecodeError:
        raise UserError("an input or output has no name", str(path), "export it again") from None
    return inputs, outputs


def session_probs(session: Any, pixels: NDArray[np.uint8], path: Path) -> Any:
    """The output `prob`.

    Raises:
        UserError: onnxruntime cannot run the file.
    """
    try:
        return session.run(["prob"], {"image": pixels})[0]
    except Exception as error:  # onnxruntime's own exceptions share no public base class
        reason = first_line(error)
        raise UserError(f"it does not run ({reason})", str(path), "export it again") from None


def check_probs(probs: Any, names: Sequence[str], path: Path, count: int) -> None:
    """Raises `UserError` where answers are no probabilities of a model's classes.

    Args:
        count: Images that were asked about.
    """
    classes = len(names)
    hint = "use a file that `distill export` wrote"
    if getattr(probs, "shape", ()) != (count, classes) or probs.dtype.kind != "f":
        got = f"{getattr(probs, 'dtype', type(probs).__name__)} {getattr(probs, 'shape', '')}"
        raise UserError(f"answers {got} for {classes} classes", str(path), hint)
    if not ((probs >= -SLACK) & (probs <= 1.0 + SLACK)).all():  # which NaN is not either
        raise UserError("its answers are no probabilities", str(path), "make it anew")


def metadata_of(session: Any) -> dict[str, Any]:
    """The metadata of any ONNX file; what is not JSON stays the text that it is."""
    try:
        raw = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError:
        return {}
    metadata: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            metadata[key] = json.loads(value)
        except (ValueError, RecursionError):
            metadata[key] = value
    return metadata


def find_images(
    paths: Iterable[str | Path], warn: Callable[[str], None] = warnings.warn
) -> list[Path]:
    """Files as they are, and all images below folders, sorted.

    Args:
        warn: Is told of pictures in a folder that nothing here decodes.

    Raises:
        UserError: A path that does not exist, or a folder without images.
    """
    endings, found = image_endings(), []
    for path in map(Path, paths):
        if path.is_dir():
            below = files_below(path)
            files = [p for p in below if p.suffix.lower() in endings]
            others = set(below) - set(files)
            if not files:
                hint = "name a picture, or a folder of them"
                nothing = UserError("no images in this folder", str(path), hint)
                raise heif_left_out(others, str(path)) or nothing
            warn_of_heif(others, str(path), warn)
            found += files
        elif path.exists():  # what is no file is said of it when it is read
            found.append(path)
        else:
            raise UserError("no such file or folder", str(path), "correct the path")
    return found


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    one = str | Path | bytes | bytearray | memoryview | Image.Image
    if isinstance(images, one) or hasattr(images, "read"):
        return [images]
    try:
        return list(images)
    except TypeError:
        what = f"images: a {type(images).__name__} is no picture, and no list of them"
        raise UnreadableImageError(what) from None


__all__ = ["Prediction", "Predictor", "UnreadableImageError", "find_images"]

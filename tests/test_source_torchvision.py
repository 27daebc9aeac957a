"""torchvision's data sets: its own layouts on disk, written small, and what cannot be opened."""

import hashlib
import pickle
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from distill.data.decode import UnreadableImageError, read_image
from distill.data.sources import open_source, open_unlabelled
from distill.errors import UserError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def refused(location: str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(location)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.hint


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10 of 10 + 4 pictures in its own pickles, known to torchvision by their MD5."""
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (14, 3072), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)

    def write(name: str, content: dict[str, Any]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    batches = []
    for number in range(5):
        rows = slice(2 * number, 2 * number + 2)
        batch = {"data": pixels[rows], "labels": [number, 9 - number]}
        batches.append([f"data_batch_{number + 1}", write(f"data_batch_{number + 1}", batch)])
    tests = [["test_batch", write("test_batch", {"data": pixels[10:], "labels": [3, 1, 4, 1]})]]
    names = [f"class {number}" for number in range(10)]
    meta = datasets.CIFAR10.meta | {"md5": write("batches.meta", {"label_names": names})}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", tests)
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path / "root"


def test_cifar10_from_its_own_files(cifar: Path) -> None:
    source = open_source(f"torchvision:CIFAR10@{cifar}")
    assert source.classes == tuple(f"class {number}" for number in range(10))
    assert [item.label for item in source.items] == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5, 3, 1, 4, 1]
    assert [item.split for item in source.items] == ["train"] * 10 + ["test"] * 4
    assert (source.items[0].name, source.items[11].name) == ("train/000000", "test/000001")
    pixels = np.load(cifar.parent / "pixels.npy").reshape(14, 3, 32, 32).transpose(0, 2, 3, 1)
    for item, expected in zip(source.items, pixels, strict=True):
        assert np.array_equal(np.asarray(read_image(source.read(item))), expected)


def test_the_folder_can_be_set_once(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILLATE_HOME", str(cifar))
    source = open_source("torchvision:CIFAR10")
    assert len(source.items) == 14
    assert source.fingerprint == open_source(f"torchvision:CIFAR10@{cifar}").fingerprint
    unlabelled = open_unlabelled("torchvision:CIFAR10")
    assert {item.label for item in unlabelled.items} == {-1}


def test_nothing_there_and_no_network(tmp_path: Path) -> None:
    new = tmp_path / "new"
    refused(f"torchvision:CIFAR10@{new}", "CIFAR10", str(new), "Name or service not known")
    refused(f"torchvision:ImageNet@{new}", "ImageNet(FOLDER)")


def test_a_damaged_file_is_not_read(cifar: Path) -> None:
    """A pickle runs code when it is read: only files of the known hash are."""
    (cifar / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'exit'\ntR.")
    refused(f"torchvision:CIFAR10@{cifar}", "to be fetched")


def test_names_of_no_usable_data_set() -> None:
    for name in ("CIFAR11", "cifar10", "", "FakeData", "EMNIST", "HMDB51"):
        refused(f"torchvision:{name}", repr(name), "CIFAR10")
    refused("torchvision:cifar10", "torchvision:CIFAR10")  # nearly right: said how it is spelt


class Fake:
    """What the data sets have in common; each picture is a pixel of grey `number`."""

    classes: Any = ("a", "b")
    words: tuple[str, ...] = ("train", "val", "test")

    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in self.words:
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are ...")
        if not (Path(root) / "there").exists():
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            (Path(root) / "there").write_text("")
        self._labels: Any = [0, 1, 1, 0][: len(split)]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        if number == 3:
            raise SyntaxError("broken PNG file")
        return Image.new("L", (1, 1), number), self._labels[number]


def use(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(datasets, "DTD", type("DTD", (Fake,), changes))


def test_splits_by_name_fetched_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    source = open_source(f"torchvision:DTD@{tmp_path / 'new'}")
    splits = [item.split for item in source.items]
    assert splits == ["train"] * 4 + ["val"] * 3 + ["test"] * 4
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["there"]
    assert read_image(source.read(source.items[6])).getpixel((0, 0)) == (2, 2, 2)
    with pytest.raises(UnreadableImageError, match="broken PNG"):
        source.read(source.items[3])


def test_names_of_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, splits in (
        (("trainval", "test"), {"train": 4, "test": 4}),
        (("train", "val", "trainval", "test"), {"train": 4, "val": 3, "test": 4}),
        (("train", "valid"), {"train": 4, "val": 4}),
    ):
        use(monkeypatch, words=words)
        source = open_source(f"torchvision:DTD@{tmp_path}")
        assert Counter(item.split for item in source.items) == splits


def test_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for classes, names in (
        ([("tench", "Tinca tinca"), ("goldfish",)], ("tench, Tinca tinca", "goldfish")),
        (["crane", "crane"], ("crane 0", "crane 1")),
        (None, ("0", "1")),
    ):
        use(monkeypatch, classes=classes)
        assert open_source(f"torchvision:DTD@{tmp_path}").classes == names


def test_labels_are_those_that_come_with_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some sets have them in an attribute, of some name or other; others only beside a picture."""

    def plain(self: Any, number: int) -> tuple[Any, Any]:
        return Image.new("L", (1, 1)), [0, 1, 1, 0][number]

    use(monkeypatch, __getitem__=plain, _labels=property(lambda self: None, lambda s, value: None))
    monkeypatch.setattr(datasets.DTD, "__len__", lambda self: 4)
    labels = [item.label for item in open_source(f"torchvision:DTD@{tmp_path}").items]
    assert labels == [0, 1, 1, 0] * 3


def test_a_data_set_without_classes_or_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for changes, word in (
        ({"__getitem__": lambda self, number: (None, 1)}, "DTD"),
        ({"__getitem__": lambda self, number: (None, {"boxes": []})}, "DTD"),
        ({"words": ("extra",)}, "split"),
        ({"classes": ["a"]}, "only one class"),
    ):
        use(monkeypatch, **changes)
        refused(f"torchvision:DTD@{tmp_path}", word)

"""The decoded store: the same pixels as a direct read, complete or absent, and never stale."""

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config import DataConfig, ViewsConfig
from distill.data.decode import InputSpec, to_pixels
from distill.data.prepare import ImageData, prepare_data
from distill.data.sources import Item, Source, open_source
from distill.data.splits import assign_splits
from distill.data.store import Store, open_store, store_bytes
from distill.errors import RunStopped, UserError
from distill.progress import Progress

SPEC = InputSpec(height=16, width=16, resize="squash")
SPECS = {"train": SPEC.model_copy(update={"height": 18, "width": 18}), "val": SPEC, "test": SPEC}


def open_at(source: Source, cache: Path, **changes: Any) -> Store:
    splits = assign_splits(source.items, source.classes, DataConfig(), 0)
    options = {"specs": SPECS, "workers": 2, "advance": lambda count: None} | changes
    return open_store(source, source.items, splits, folder=cache, **options)


def never(item: Item) -> bytes:
    raise AssertionError(f"{item.name} is decoded again")


def prepare(folder: Path, cache: Path) -> ImageData:
    return prepare_data(
        str(folder), DataConfig(size=16), ViewsConfig(), 0, cache, 1, Progress(quiet=True)
    )


def test_images_are_what_a_direct_read_gives(image_folder: Path, tmp_path: Path) -> None:
    store = open_at(open_source(str(image_folder)), tmp_path / "cache")
    assert sorted(store.splits) == ["test", "train", "val"]
    assert sum(len(split.names) for split in store.splits.values()) == 16
    for name, split in store.splits.items():
        assert split.pixels.dtype == np.uint8
        assert len(split.pixels) == len(split.labels) == len(split.names)
        for pixels, label, file in zip(split.pixels, split.labels, split.names, strict=True):
            assert np.array_equal(pixels, to_pixels(image_folder / file, SPECS[name]))
            assert ("cat", "dog")[label] == file.split("/")[0]


def test_its_arrays_are_mapped_read_only(image_folder: Path, tmp_path: Path) -> None:
    store = open_at(open_source(str(image_folder)), tmp_path)
    assert isinstance(store.splits["train"].pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.splits["train"].pixels[0] = 0


def test_unreadable_files_are_listed_and_leave_no_gap(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "cat" / "3.jpg").write_bytes(b"no picture")
    whole = (image_folder / "dog" / "5.jpg").read_bytes()
    (image_folder / "dog" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    store = open_at(open_source(str(image_folder)), tmp_path / "cache")
    assert sorted(store.unreadable) == ["cat/3.jpg", "dog/5.jpg"]
    assert all(store.unreadable.values())
    names = [name for split in store.splits.values() for name in split.names]
    assert len(names) == 14
    assert not set(names) & set(store.unreadable)
    for name, split in store.splits.items():
        for pixels, file in zip(split.pixels, split.names, strict=True):
            assert np.array_equal(pixels, to_pixels(image_folder / file, SPECS[name]))


def test_a_file_that_vanished_after_the_listing_is_unreadable(
    image_folder: Path, tmp_path: Path
) -> None:
    source = open_source(str(image_folder))
    (image_folder / "cat" / "0.jpg").unlink()
    assert list(open_at(source, tmp_path / "cache").unreadable) == ["cat/0.jpg"]


def test_every_image_is_counted_once(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "cat" / "3.jpg").write_bytes(b"no picture")
    counts: list[int] = []
    open_at(open_source(str(image_folder)), tmp_path / "cache", advance=counts.append)
    assert sum(counts) == 16


def test_the_second_opening_decodes_nothing(image_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(image_folder))
    first = open_at(source, tmp_path)
    second = open_at(replace(source, read=never), tmp_path)
    assert second.sha256 == first.sha256
    assert second.unreadable == first.unreadable
    for name, split in first.splits.items():
        assert second.splits[name].names == split.names
        assert np.array_equal(second.splits[name].pixels, split.pixels)
        assert np.array_equal(second.splits[name].labels, split.labels)


def test_the_number_of_threads_changes_nothing(image_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(image_folder))
    one, four = (open_at(source, tmp_path / str(n), workers=n) for n in (1, 4))
    assert one.sha256 == four.sha256
    for name, split in one.splits.items():
        assert np.array_equal(four.splits[name].pixels, split.pixels)


def shorten(place: Path) -> None:
    file = place / "train.npy"
    file.write_bytes(file.read_bytes()[:-1])


def lose_array(place: Path) -> None:
    (place / "val.npy").unlink()


def lose_index(place: Path) -> None:
    (place / "index.json").unlink()


def shorten_index(place: Path) -> None:
    text = (place / "index.json").read_text()
    (place / "index.json").write_text(text[: len(text) // 2])


def empty_index(place: Path) -> None:
    (place / "index.json").write_text("{}")


@pytest.mark.parametrize("damage", [shorten, lose_array, lose_index, shorten_index, empty_index])
def test_a_damaged_store_is_written_again(
    image_folder: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    source = open_source(str(image_folder))
    cache = tmp_path / "cache"
    pixels = {name: np.array(s.pixels) for name, s in open_at(source, cache).splits.items()}
    (place,) = cache.iterdir()
    damage(place)
    with pytest.raises(AssertionError, match="decoded again"):
        open_at(replace(source, read=never), cache)
    for name, split in open_at(source, cache).splits.items():
        assert np.array_equal(split.pixels, pixels[name])
    assert list(cache.iterdir()) == [place]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_leaves_nothing(
    image_folder: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    source = open_source(str(image_folder))
    seen: list[str] = []

    def stop_at_the_tenth(item: Item) -> Any:
        seen.append(item.name)
        if len(seen) == 10:
            raise error
        return source.read(item)

    with pytest.raises(error):
        open_at(replace(source, read=stop_at_the_tenth), tmp_path / "cache", workers=1)
    assert not list((tmp_path / "cache").iterdir())
    assert len(open_at(source, tmp_path / "cache").splits["train"].names) > 0


def test_a_touched_file_makes_a_new_store(image_folder: Path, tmp_path: Path) -> None:
    first = open_at(open_source(str(image_folder)), tmp_path / "cache")
    file = image_folder / "dog" / "1.jpg"
    other = (image_folder / "cat" / "1.jpg").read_bytes()
    file.write_bytes(other)
    os.utime(file, ns=(1, 1))
    second = open_at(open_source(str(image_folder)), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert first.sha256 != second.sha256
    split = next(s for s in second.splits.values() if "dog/1.jpg" in s.names)
    pixels = split.pixels[split.names.index("dog/1.jpg")]
    size = pixels.shape[0]
    assert np.array_equal(pixels, to_pixels(other, SPECS["train" if size == 18 else "val"]))


def test_the_data_hash_is_of_content_not_of_time_or_size(
    image_folder: Path, tmp_path: Path
) -> None:
    first = open_at(open_source(str(image_folder)), tmp_path / "cache")
    os.utime(image_folder / "dog" / "1.jpg", ns=(1, 1))
    touched = open_source(str(image_folder))
    assert open_at(touched, tmp_path / "cache").sha256 == first.sha256
    small = dict.fromkeys(SPECS, SPEC)
    assert open_at(touched, tmp_path / "cache", specs=small).sha256 == first.sha256


@pytest.mark.parametrize(
    "change", [{"height": 20, "width": 20}, {"resize": "shortest"}, {"interpolation": "bicubic"}]
)
def test_another_preprocessing_makes_another_store(
    image_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    source = open_source(str(image_folder))
    open_at(source, tmp_path / "cache")
    specs = {**SPECS, "val": SPEC.model_copy(update=change)}
    store = open_at(source, tmp_path / "cache", specs=specs)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    split = store.splits["val"]
    direct = to_pixels(image_folder / split.names[0], specs["val"])
    assert np.array_equal(split.pixels[0], direct)


def test_no_room_on_the_disk(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(image_folder))
    usage = namedtuple("usage", "total used free")
    # 2 classes of 8: round(8 * 0.15) = 1 each in val and test, so 4 of 16 x 16, 12 of 18 x 18.
    needed = 4 * 16 * 16 * 3 + 12 * 18 * 18 * 3
    splits = assign_splits(source.items, source.classes, DataConfig(), 0)
    assert store_bytes(splits, SPECS) == needed
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed - 1))
    with pytest.raises(RunStopped, match="make room") as caught:
        open_at(replace(source, read=never), tmp_path / "cache")
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed))
    assert open_at(source, tmp_path / "cache").splits


def test_prepared_training_images_carry_the_margin(image_folder: Path, tmp_path: Path) -> None:
    data = prepare(image_folder, tmp_path / "cache")
    assert data.train.pixels.shape[1:] == (18, 18, 3)  # 16 * (1 + 0.125)
    assert data.val.pixels.shape[1:] == data.test.pixels.shape[1:] == (16, 16, 3)
    assert data.spec == InputSpec(height=16, width=16, resize="squash")
    assert data.class_counts("train") == [6, 6]
    assert data.findings == ()


def test_findings_name_the_files(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "cat" / "3.jpg").write_bytes(b"no picture")
    (image_folder / "cat" / "notes.txt").write_text("x")
    findings = prepare(image_folder, tmp_path / "cache").findings
    assert [(f["kind"], f["paths"]) for f in findings] == [
        ("unreadable", ["cat/3.jpg"]),
        ("ignored", ["cat/notes.txt"]),
    ]


def test_an_imbalance_is_found(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    many = [f"a/{i}.jpg" for i in range(20)]
    few = [f"b/{i}.jpg" for i in range(5)]
    folder = write_images(tmp_path / "images", many + few)
    # 15 % of 20 is 3, of 5 is 1: 14 and 3 are left for training.
    (finding,) = prepare(folder, tmp_path / "cache").findings
    assert finding["kind"] == "imbalance"
    assert "a 14" in finding["detail"]
    assert "b 3" in finding["detail"]


def test_a_class_that_runs_empty_is_a_mistake_in_the_data(
    image_folder: Path, tmp_path: Path
) -> None:
    for file in (image_folder / "dog").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match="'dog' has no readable image in train"):
        prepare(image_folder, tmp_path / "cache")

"""The decoded store: the same pixels as a direct read, complete or absent, and never stale."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config import DataConfig, ViewsConfig
from distill.data.audit.splits import assign_splits
from distill.data.decode import InputSpec, to_pixels
from distill.data.prepare import ImageData, prepare_data
from distill.data.sources import Item, Source, open_source
from distill.data.store import Store, open_store
from distill.data.store.store import store_bytes
from distill.data.workspace import Workspace
from distill.errors import RunStopped, UserError
from distill.lock import lock
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
        str(folder),
        DataConfig(size=16),
        ViewsConfig(),
        0,
        Workspace(cache, 1, Progress(quiet=True)),
    )


def test_images_are_what_a_direct_read_gives(image_folder: Path, tmp_path: Path) -> None:
    """Mapped and read-only; the hash is of sorted names, labels and digests."""
    store = open_at(open_source(str(image_folder)), tmp_path / "cache")
    assert sorted(store.splits) == ["test", "train", "val"]
    rows = []
    for name, split in store.splits.items():
        assert split.pixels.dtype == np.uint8
        assert len(split.pixels) == len(split.labels) == len(split.names)
        for pixels, label, file in zip(split.pixels, split.labels, split.names, strict=True):
            assert np.array_equal(pixels, to_pixels(image_folder / file, SPECS[name]))
            assert ("cat", "dog")[label] == file.split("/")[0]
            digest = hashlib.sha256((image_folder / file).read_bytes()).hexdigest()
            rows.append([file, int(label), digest])
    assert len(rows) == 16
    assert store.sha256 == hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
    assert isinstance(store.splits["train"].pixels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.splits["train"].pixels[0] = 0


def test_unreadable_files_are_listed_and_leave_no_gap(image_folder: Path, tmp_path: Path) -> None:
    """No picture, half of one, and a link that leads nowhere; all are counted."""
    (image_folder / "cat" / "0.jpg").unlink()
    (image_folder / "cat" / "0.jpg").symlink_to("nowhere")
    source, counts = open_source(str(image_folder)), list[int]()
    (image_folder / "cat" / "3.jpg").write_bytes(b"no picture")
    whole = (image_folder / "dog" / "5.jpg").read_bytes()
    (image_folder / "dog" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    for _ in ("written", "found"):
        store = open_at(source, tmp_path / "cache", advance=counts.append)
        assert sorted(store.unreadable) == ["cat/0.jpg", "cat/3.jpg", "dog/5.jpg"]
        assert all(store.unreadable.values())
        names = [name for split in store.splits.values() for name in split.names]
        assert len(names) == 13
        assert not set(names) & set(store.unreadable)
        for name, split in store.splits.items():
            files = [(image_folder / file).read_bytes() for file in split.names]
            assert split.digests == tuple(hashlib.sha256(file).hexdigest() for file in files)
            for pixels, file in zip(split.pixels, files, strict=True):
                assert np.array_equal(pixels, to_pixels(file, SPECS[name]))
    assert sum(counts) == 16  # once each, when it was written


def test_the_second_opening_decodes_nothing(image_folder: Path, tmp_path: Path) -> None:
    """By however many threads the first one decoded."""
    source = open_source(str(image_folder))
    first, other = (open_at(source, tmp_path / str(n), workers=n) for n in (1, 4))
    second = open_at(replace(source, read=never), tmp_path / "1")
    for store in (other, second):
        assert store.sha256 == first.sha256
        assert store.unreadable == first.unreadable
        for name, split in first.splits.items():
            assert store.splits[name].names == split.names
            assert np.array_equal(store.splits[name].pixels, split.pixels)
            assert np.array_equal(store.splits[name].labels, split.labels)


def test_its_size_is_announced_before_the_first_image_is_read(
    image_folder: Path, tmp_path: Path
) -> None:
    """Without a terminal the size was said when all was written."""
    source, sizes = open_source(str(image_folder)), []
    splits = assign_splits(source.items, source.classes, DataConfig(), 0)

    def read(item: Item) -> bytes:
        assert sizes == [store_bytes(splits, SPECS)]
        return source.read(item)

    for _ in ("written", "found"):
        open_at(replace(source, read=read), tmp_path / "cache", announce=sizes.append)
    assert len(sizes) == 1


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


def lengthen(place: Path) -> None:
    with (place / "test.npy").open("ab") as file:
        file.write(b"\0")


def turn_array(place: Path) -> None:
    """Another header over as many bytes: (12, 18, 18, 3) becomes (12, 9, 36, 3)."""
    array = np.load(place / "train.npy")
    np.save(place / "train.npy", array.reshape(len(array), 9, 36, 3))


def swap_labels(place: Path) -> None:
    index = json.loads((place / "index.json").read_text())
    index["splits"]["train"]["labels"].reverse()
    (place / "index.json").write_text(json.dumps(index))


def age(place: Path) -> None:
    """An older format, whole and with the right hash."""
    index = json.loads((place / "index.json").read_text())
    content = json.dumps({**index, "format": index["format"] - 1})
    (place / "index.json").write_text(content)
    (place / "index.sha256").write_text(hashlib.sha256(content.encode()).hexdigest())


DAMAGES = [shorten, lengthen, lose_array, turn_array, lose_index, shorten_index, empty_index]
DAMAGES += [swap_labels, age]


def damage_and_open(damage: Callable[[Path], None], source: Source, cache: Path) -> Store:
    (place,) = cache.iterdir()
    damage(place)
    with pytest.raises(AssertionError, match="decoded again"):
        open_at(replace(source, read=never), cache)
    return open_at(source, cache)


def test_a_damaged_store_is_written_again(image_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(image_folder))
    cache = tmp_path / "cache"
    pixels = {name: np.array(s.pixels) for name, s in open_at(source, cache).splits.items()}
    places = list(cache.iterdir())
    for damage in DAMAGES:
        for name, split in damage_and_open(damage, source, cache).splits.items():
            assert np.array_equal(split.pixels, pixels[name])
        assert list(cache.iterdir()) == places


def test_an_interrupted_build_leaves_nothing(image_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(image_folder))
    for error in (KeyboardInterrupt, MemoryError):
        seen: list[str] = []

        def stop_at_the_tenth(
            item: Item, seen: list[str] = seen, error: type[BaseException] = error
        ) -> Any:
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


def test_another_preprocessing_makes_another_store(image_folder: Path, tmp_path: Path) -> None:
    source, cache = open_source(str(image_folder)), tmp_path / "cache"
    open_at(source, cache)
    for number, change in enumerate(
        ({"height": 20, "width": 20}, {"resize": "shortest"}, {"interpolation": "bicubic"})
    ):
        specs = {**SPECS, "val": SPEC.model_copy(update=change)}
        split = open_at(source, cache, specs=specs).splits["val"]
        assert len(list(cache.iterdir())) == 2 + number
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
    with pytest.raises(RunStopped) as caught:
        open_at(replace(source, read=never), tmp_path / "cache")
    assert caught.value.exit_code == 3
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed))
    assert open_at(source, tmp_path / "cache").splits


def test_a_disk_that_fills_up_while_writing(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of a mapped file were written: without room for one the process died of SIGBUS."""
    source = open_source(str(image_folder))

    def fails(number: int) -> Callable[[int], None]:
        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    for number, expected in (
        (errno.ENOSPC, RunStopped),
        (errno.EDQUOT, RunStopped),
        (errno.EIO, OSError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails(number))
            with pytest.raises(expected) as caught:
                open_at(source, tmp_path / "cache")
        assert isinstance(caught.value, RunStopped) == (expected is RunStopped)
        assert not list((tmp_path / "cache").iterdir())
    assert open_at(source, tmp_path / "cache").splits


def test_taken_images_are_copies_in_the_order_asked_for(image_folder: Path, tmp_path: Path) -> None:
    mapped = open_at(open_source(str(image_folder)), tmp_path / "cache").splits["train"]
    for split in (mapped, replace(mapped, stored=np.array(mapped.pixels))):
        for ids in ([3, 0, 3], np.array([11, 2]), np.arange(5, dtype=np.int32), np.arange(0)):
            taken = split.take(ids)
            assert type(taken) is np.ndarray
            assert taken.dtype == np.uint8
            assert taken.shape == (len(ids), 18, 18, 3)
            for row, i in zip(taken, ids, strict=True):
                assert np.array_equal(row, split.pixels[i])
            taken[:] = 0  # a copy is not read-only
        assert split.pixels[2].any()


def test_a_file_cut_short_under_a_running_job_is_an_error_not_a_crash(
    image_folder: Path, tmp_path: Path
) -> None:
    """Reading a mapped page beyond the end of its file killed the process with SIGBUS."""
    source = open_source(str(image_folder))
    split = open_at(source, tmp_path / "cache").splits["train"]
    (file,) = (tmp_path / "cache").glob("images-*/train.npy")
    os.truncate(file, 100)
    with pytest.raises(RunStopped) as caught:
        split.take([0])
    assert str(file) in str(caught.value)
    assert open_at(source, tmp_path / "cache").splits["train"].take([0]).any()


def test_a_file_deleted_under_a_running_job_stays_readable(
    image_folder: Path, tmp_path: Path
) -> None:
    split = open_at(open_source(str(image_folder)), tmp_path / "cache").splits["train"]
    expected = np.array(split.pixels)
    (place,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(place)
    place.mkdir()
    (place / "train.npy").write_bytes(b"another file")
    assert np.array_equal(split.take(range(len(expected))), expected)


CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from distill.data.decode import InputSpec
from distill.data.sources import SPLITS, open_source
from distill.data.store import open_store

data, cache, notes = map(Path, sys.argv[1:])
source = open_source(str(data))

def read(item):
    with (notes / "reads").open("a") as file:
        file.write(item.name + "\\n")
    while not (notes / "go").exists():
        time.sleep(0.005)
    return source.read(item)

specs = dict.fromkeys(SPLITS, InputSpec(height=16, width=16, resize="squash"))
splits = [("train", "val", "test")[i % 3] for i in range(len(source.items))]
(notes / f"ready-{time.time_ns()}").touch()
slow = replace(source, read=read)
print(open_store(slow, source.items, splits, specs, cache, 1, lambda count: None).sha256)
"""


@pytest.fixture
def start_builder(image_folder: Path, tmp_path: Path) -> Any:
    """Starts a process that opens a store; it stops in its first image until `go` exists."""
    started = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, image_folder, tmp_path / "cache", tmp_path]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.005)


def test_two_processes_decode_once_whatever_a_killed_one_left(
    image_folder: Path, tmp_path: Path, start_builder: Any
) -> None:
    cache, reads = tmp_path / "cache", tmp_path / "reads"
    killed = start_builder()
    wait_for(reads.exists)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".tmp"]
    open_at(open_source(str(image_folder)), cache)  # another size, another store
    (other,) = cache.iterdir()
    reads.unlink()
    first = start_builder()
    wait_for(reads.exists)
    second = start_builder()
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 3)
    time.sleep(0.2)  # enough, mostly, for the second to come to the lock; the test holds without
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    names = reads.read_text().split()
    assert len(names) == len(set(names)) == 16
    (place,) = set(cache.iterdir()) - {other}
    assert sorted(file.name for file in place.iterdir()) == [
        "index.json",
        "index.sha256",
        "test.npy",
        "train.npy",
        "val.npy",
    ]


def test_what_a_living_process_writes_is_not_removed(image_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    alive, dead = cache / "images-1.17.tmp", cache / "images-2.17.tmp"
    alive.mkdir(parents=True)
    dead.mkdir()
    with lock(cache / "images-1.lock") as is_held:
        assert is_held
        open_at(open_source(str(image_folder)), cache)
        assert alive.exists()
        assert not dead.exists()


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path: Path) -> None:
    file = tmp_path / "images.lock"
    with lock(file) as first, lock(file, wait=False) as second:
        assert (first, second) == (True, False)
    assert not file.exists()
    with lock(file, wait=False) as third:
        assert third


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
    assert [(f.kind, list(f.paths)) for f in findings] == [
        ("unreadable", ["cat/3.jpg"]),
        ("ignored", ["cat/notes.txt"]),
    ]


def test_an_imbalance_is_found(tmp_path: Path, write_images: Callable[..., Path]) -> None:
    many = [f"a/{i}.jpg" for i in range(20)]
    few = [f"b/{i}.jpg" for i in range(5)]
    folder = write_images(tmp_path / "images", many + few)
    # 15 % of 20 is 3, of 5 is 1: 14 and 3 are left for training.
    (finding,) = prepare(folder, tmp_path / "cache").findings
    assert finding.kind == "imbalance"
    assert "a 14" in finding.detail
    assert "b 3" in finding.detail


def test_a_class_that_runs_empty_is_a_mistake_in_the_data(
    image_folder: Path, tmp_path: Path
) -> None:
    for file in (image_folder / "dog").iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"'dog'.*train"):
        prepare(image_folder, tmp_path / "cache")


def test_several_labels_are_rows_of_zeros_and_ones(image_folder: Path, tmp_path: Path) -> None:
    source = open_source(str(image_folder))
    labels = {"cat/0.jpg": (0, 1), "cat/1.jpg": (), "dog/0.jpg": -1}
    items = [replace(i, label=labels.get(i.name, (i.label,)), split="train") for i in source.items]
    several = replace(source, items=tuple(items), task="multi")
    splits = ["train"] * len(items)
    for _ in range(2):  # written, then found
        store = open_store(several, items, splits, SPECS, tmp_path, 1, lambda count: None)
        found = store.splits["train"]
        rows = dict(zip(found.names, found.labels.tolist(), strict=True))
        assert rows["cat/0.jpg"] == [1, 1]
        assert rows["cat/1.jpg"] == [0, 0]
        assert rows["cat/2.jpg"] == [1, 0]
        assert rows["dog/0.jpg"] == [-1, -1]
        assert rows["dog/1.jpg"] == [0, 1]
        assert store.splits["val"].labels.shape == (0, 2)

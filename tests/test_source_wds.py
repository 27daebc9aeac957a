"""WebDataset shards: samples, labels, patterns, and shards that are not whole."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.decode import read_image
from distill.data.sources import Item, open_source, open_unlabelled
from distill.errors import UserError

Write = Callable[..., Path]


def picture(grey: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L", (1, 1), grey).save(file, kind)
    return file.getvalue()


def shard(file: Path, members: Iterable[tuple[str, str | bytes]], **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as tar:
        for name, content in members:
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def samples(labels: Iterable[object], first: int = 0) -> list[tuple[str, str | bytes]]:
    """A picture of grey `i` and a `.cls` for each label."""
    found: list[tuple[str, str | bytes]] = []
    for number, label in enumerate(labels, first):
        found += [(f"{number:04d}.png", picture(number)), (f"{number:04d}.cls", f"{label}\n")]
    return found


def refused(location: Path | str, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_source(str(location))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.hint


@pytest.mark.parametrize("scheme", ["", "wds:"])
def test_a_folder_of_shards_of_splits(tmp_path: Path, scheme: str) -> None:
    shard(tmp_path / "val-000.tar", samples([1], 7))
    shard(tmp_path / "train-001.tar", samples([1, 0], 3))
    shard(tmp_path / "train-000.tar", samples([0], 2))
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    source = open_source(f"{scheme}{tmp_path}")
    assert source.classes == ("zebra", "ant")
    assert source.items == (
        Item("train-000/0002", 0, "train"),
        Item("train-001/0003", 1, "train"),
        Item("train-001/0004", 0, "train"),
        Item("val-000/0007", 1, "val"),
    )
    greys = [read_image(source.read(item)).getpixel((0, 0)) for item in source.items]
    assert greys == [(2, 2, 2), (3, 3, 3), (4, 4, 4), (7, 7, 7)]


def test_one_shard_and_every_kind_of_label(tmp_path: Path) -> None:
    members = [
        ("./a/0.JPG", picture(0, "JPEG")),
        ("./a/0.txt", "a caption\n"),
        ("./a/0.json", '{"label": "cat", "width": 1}'),
        ("b/0.webp", picture(1, "WEBP")),
        ("b/0.json", '{"width": 1}'),
        ("b/0.txt", " dog \n"),
        ("b/0.seg.png", picture(9)),
        ("._b", "of a Mac"),
        ("__meta__", "{}"),
        ("notes.md", "no sample"),
    ]
    source = open_source(str(shard(tmp_path / "pets.tar", members)))
    assert source.classes == ("cat", "dog")
    assert source.items == (Item("pets/a/0", 0), Item("pets/b/0", 1))
    assert source.read(source.items[1]) == picture(1, "WEBP")


def test_numbers_that_nothing_names(tmp_path: Path) -> None:
    source = open_source(str(shard(tmp_path / "x.tar", samples([10, 9, 10]))))
    assert source.classes == ("9", "10")
    assert [item.label for item in source.items] == [1, 0, 1]


def test_patterns(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "train-002", "test-000", "test-001", "a/000", "b/000"):
        shard(tmp_path / f"{name}.tar", samples([0, 1]))
    for number in (1, 2, 9, 10):
        shard(tmp_path / f"x-{number}.tar", samples([0, 1]))
    for pattern, names in (
        ("train-{000..002}.tar", ["train-000", "train-001", "train-002"]),
        ("train-{002,000}.tar", ["train-002", "train-000"]),
        ("{train,test}-00{0..1}.tar", ["train-000", "train-001", "test-000", "test-001"]),
        ("{test-000,train-{001,002}}.tar", ["train-001", "train-002", "test-000"]),
        ("train-*.tar", ["train-000", "train-001", "train-002"]),
        ("x-{1..2}.tar", ["x-1", "x-2"]),
        ("x-{9..10}.tar", ["x-9", "x-10"]),
        ("test-001.tar", ["test-001"]),
        ("{a,b}/000.tar", ["a/000", "b/000"]),
    ):
        source = open_source(f"wds:{tmp_path}/{pattern}", to_train=False)
        found = dict.fromkeys(item.name.rsplit("/", 1)[0] for item in source.items)
        assert list(found) == names


def test_long_names_and_other_formats_of_tar(tmp_path: Path) -> None:
    long = "folder/" * 30 + "ü"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        members = [(f"{long}.png", picture(5)), (f"{long}.cls", "1"), *samples([0])]
        source = open_source(str(shard(tmp_path / "x.tar", members, format=form)))
        assert source.items[0] == Item(f"x/{long}", 1)
        assert source.read(source.items[0]) == picture(5)


def test_folders_with_other_things_are_not_shards(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg"])
    shard(tmp_path / "train.tar", samples([0, 1]))
    assert open_source(str(tmp_path)).classes == ("a", "b")


def test_unlabelled_shards(tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tar", [("0.png", picture(0)), ("1.png", picture(1)), ("1.cls", "?")])
    source = open_unlabelled(str(file))
    assert source.items == (Item("x/0", -1), Item("x/1", -1))
    assert source.classes == ()
    assert source.read(source.items[1]) == picture(1)


def test_pictures_are_read_from_threads_in_any_order(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    contents = [noise.bytes(noise.integers(0, 3000)) for _ in range(300)]
    for part in range(3):
        members: list[tuple[str, str | bytes]] = []
        for number in range(part * 100, part * 100 + 100):
            members += [
                (f"{number:03d}.jpg", contents[number]),
                (f"{number:03d}.cls", "01"[part % 2]),
            ]
        shard(tmp_path / f"{part}.tar", members)
    source = open_source(str(tmp_path))
    order = noise.permutation(300)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source.read(source.items[i]), order))
    assert found == [contents[i] for i in order]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_shard_cut_anywhere_is_refused(tmp_path: Path, form: int) -> None:
    """Python's tarfile takes a cut at a header for the end, and so loses samples silently."""
    members = [("0.png", picture(0)), ("0.cls", "0"), ("1" * 120 + ".png", b"x" * 700)]
    whole = shard(tmp_path / "whole.tar", [*members, ("1" * 120 + ".cls", "1")], format=form)
    content = whole.read_bytes()
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512  # the padded end of the last label
    assert len(open_source(str(whole)).items) == 2
    for length in range(0, end + 512, 128):
        (tmp_path / "cut.tar").write_bytes(content[:length])
        refused(tmp_path / "cut.tar", "cut.tar")
    (tmp_path / "cut.tar").write_bytes(content[: end + 512])
    assert len(open_source(str(tmp_path / "cut.tar")).items) == 2


def test_a_damaged_header_and_a_compressed_shard_are_refused(tmp_path: Path) -> None:
    """Python's tarfile takes a damaged header for the end, too."""
    file = shard(tmp_path / "x.tar", samples([0, 1, 0]))
    content = bytearray(file.read_bytes())
    content[2048] ^= 255  # the third of the headers and contents of 512 bytes each
    file.write_bytes(content)
    refused(file, "2,048")
    with tarfile.open(file, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("0.png"), io.BytesIO())
    refused(file, "x.tar", "unpack")


def test_keys_with_dots(tmp_path: Path) -> None:
    """Half of the samples were lost without a word: a name's first dot was the one that counted."""
    members: list[tuple[str, str | bytes]] = []
    for number, label in enumerate([0, 1, 0, 1]):
        members += [(f"cam{number}.v2.png", picture(number)), (f"cam{number}.v2.cls", str(label))]
    members += [("plain.png", picture(9)), ("plain.cls", "1")]
    members += [("0001.input.png", picture(7)), ("0001.cls", "0"), (".hidden.png", b"x")]
    source = open_source(str(shard(tmp_path / "x.tar", members)))
    named = {item.name: item.label for item in source.items}
    expected = {f"x/cam{number}.v2": number % 2 for number in range(4)}
    assert named == {**expected, "x/plain": 1, "x/0001.input": 0}
    others = [("0.png", picture(0)), ("0.cls", "0"), ("0.meta.json", "{}"), ("0.cap.txt", "x")]
    two = [("1.left.png", picture(1)), ("1.right.png", picture(2)), ("1.cls", "1")]
    source = open_source(str(shard(tmp_path / "z.tar", [*others, *two])))
    named = {item.name: item.label for item in source.items}
    assert named == {"z/0": 0, "z/1.left": 1, "z/1.right": 1}
    refused(shard(tmp_path / "y.tar", [("0.b.png", picture(1)), *samples([0, 1], 1)]), "'0.b'")


def test_samples_that_are_none(tmp_path: Path) -> None:
    cases: list[tuple[list[tuple[str, str | bytes]], tuple[str, ...]]] = [
        ([("0.png", b"x"), *samples([0, 1], 1)], ("sample '0'", "no label", ".cls")),
        ([("cat/0.png", b"x")], ("sample 'cat/0'", "no label", "folders are the classes, unpack")),
        ([("0.png", b"x"), ("0.json", '{"id": 1}')], ("sample '0'", "no label")),
        ([("0.cls", "1"), *samples([0, 1], 1)], ("sample '0'", "no picture")),
        ([("0.png", b"x"), ("0.cls", "cat")], ("cls of sample '0'", "'cat'")),
        ([("0.png", b"x"), ("0.json", "{")], ("json of sample '0'",)),
        ([("0.png", b"x"), ("0.txt", b"\xff")], ("txt of sample '0'",)),
        ([("0.png", b"x"), ("0.txt", " ")], ("label ''", "sample '0'")),
        ([("0.png", b"x"), ("0.json", '{"label": [0, 1]}')], ("label [0, 1]",)),
        ([("0.png", b"x"), ("0.json", '{"label": true}')], ("label True",)),
        ([("0.png", b"x"), ("0.jpg", b"x")], ("'0.jpg'",)),
        ([("0.png", b"x"), ("./0.png", b"x")], ("'./0.png'",)),
        (samples([1, 1]), ("'1'",)),
        ([("readme.md", b"x")], ("no pictures",)),
        ([], ("no pictures",)),
    ]
    for members, words in cases:
        refused(shard(tmp_path / "x.tar", members), "x.tar", *words)


def test_a_label_of_no_class(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for label in (2, -1):
        shard(tmp_path / "x.tar", samples([0, 1, label]))
        refused(tmp_path, f"label {label}", "x/0002", "0 to 1", "classes.txt")


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    shard(tmp_path / "train-000.tar", samples([0, 1]))
    refused(f"wds:{tmp_path}/train-{{000..999999999}}.tar", "train-000000000.tar")
    refused(tmp_path / "missing.tar", "missing.tar")
    refused(f"wds:{tmp_path}/val-*.tar", "val-*.tar")
    (tmp_path / "empty").mkdir()
    refused(f"wds:{tmp_path}/empty", "*.tar")
    shard(tmp_path / "extra.tar", samples([0, 1]))
    refused(f"wds:{tmp_path}", "extra.tar")


def test_a_shard_that_changes_after_the_listing(tmp_path: Path) -> None:
    file = shard(tmp_path / "x.tar", samples([0, 1]))
    source = open_source(str(file))
    before = source.fingerprint
    os.utime(file, ns=(1, 1))
    with pytest.raises(UserError, match="changed while it was read"):
        source.read(source.items[0])
    assert open_source(str(file)).fingerprint != before

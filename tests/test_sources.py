"""Folders and Parquet files: layouts, what is passed over, and every mistake with its name."""

import io
import json
import os
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from distill.data.decode import UnreadableImageError, read_image
from distill.data.demo import CLASSES, label_of
from distill.data.sources import Source, open_source, open_unlabelled
from distill.data.sources import parquet as parquet_source
from distill.data.sources.parquet import KEPT_BYTES
from distill.errors import UserError, install_command

Write = Callable[..., Path]


def names(source: Source) -> list[str]:
    return [item.name for item in source.items]


def refused(location: Path | str, *words: str) -> UserError:
    with pytest.raises(UserError) as caught:
        open_source(str(location))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return caught.value


def test_class_folders_without_splits(image_folder: Path) -> None:
    source = open_source(str(image_folder))
    assert source.classes == ("cat", "dog")
    assert names(source)[0] == "cat/0.jpg"
    assert len(set(names(source))) == 16
    assert [item.label for item in source.items] == [0] * 8 + [1] * 8
    assert {item.split for item in source.items} == {None}
    item = source.items[3]
    assert source.read(item) == (image_folder / item.name).read_bytes()


def test_split_folders_and_their_aliases(tmp_path: Path, write_images: Write) -> None:
    for val in ("val", "valid", "validation", "dev", "Val"):
        root = tmp_path / f"of {val}"
        write_images(root, [f"{s}/{c}/x.png" for s in ("Training", val, "testing") for c in "ba"])
        source = open_source(str(root))
        assert source.classes == ("a", "b")
        assert [(i.name, i.label, i.split) for i in source.items] == [
            ("Training/a/x.png", 0, "train"),
            ("Training/b/x.png", 1, "train"),
            (f"{val}/a/x.png", 0, "val"),
            (f"{val}/b/x.png", 1, "val"),
            ("testing/a/x.png", 0, "test"),
            ("testing/b/x.png", 1, "test"),
        ]


def test_train_alone_or_with_one_other_split(tmp_path: Path, write_images: Write) -> None:
    for other in ("val", "test"):
        root = tmp_path / other
        write_images(root, ["train/a/0.jpg", "train/b/0.jpg"])
        assert {item.split for item in open_source(str(root)).items} == {"train"}
        write_images(root, [f"{other}/a/0.jpg", f"{other}/b/0.jpg"])
        assert {item.split for item in open_source(str(root)).items} == {"train", other}


def test_files_in_folders_below_a_class_belong_to_it(tmp_path: Path, write_images: Write) -> None:
    """Whatever the case of their endings."""
    write_images(tmp_path, ["a/0.JPG", "a/batch 1/deep/1.Jpeg", "b/2.WebP"])
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert names(source) == ["a/0.JPG", "a/batch 1/deep/1.Jpeg", "b/2.WebP"]


def test_a_link_that_leads_nowhere_is_an_unreadable_image(image_folder: Path) -> None:
    """It was passed over without a word, as a missing photograph must not be."""
    (image_folder / "cat" / "lost.jpg").symlink_to(image_folder / "nowhere.jpg")
    source = open_source(str(image_folder))
    (lost,) = (item for item in source.items if item.name == "cat/lost.jpg")
    with pytest.raises(UnreadableImageError, match="leads nowhere"):
        source.read(lost)


def test_a_name_that_is_no_unicode_is_told(image_folder: Path) -> None:
    """A name of another encoding, as old archives hold them, ended in a traceback."""
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (image_folder / "cat" / name).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    with pytest.raises(UserError, match="no valid Unicode") as caught:
        open_source(str(image_folder))
    assert str(caught.value).isprintable()


def test_a_class_called_train(tmp_path: Path, write_images: Write) -> None:
    root = write_images(tmp_path, ["train/0.jpg", "bus/0.jpg"])
    with pytest.raises(UserError, match="train"):
        open_source(str(root))
    root = write_images(tmp_path / "in", ["train/train/0.jpg", "train/bus/0.jpg"])
    assert open_source(str(root)).classes == ("bus", "train")


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, write_images: Write) -> None:
    """Only a file's own folder was looked at, not those above it.

    A hidden folder above the root hides nothing.
    """
    root = write_images(tmp_path / ".data", ["a/0.jpg", "b/1.jpg", "a/._0.jpg", ".git/x.jpg"])
    write_images(root, ["a/.thumbs/2.jpg", "__MACOSX/a.jpg", "a/.cache/small/0.jpg"])
    (root / "a" / ".DS_Store").write_bytes(b"\0")
    source = open_source(str(root))
    assert source.classes == ("a", "b")
    assert names(source) == ["a/0.jpg", "b/1.jpg"]
    assert source.ignored == ()


def test_files_that_are_no_images_by_their_ending_are_listed(image_folder: Path) -> None:
    """But for what an operating system leaves behind."""
    for name in ("cat/notes.txt", "dog/Thumbs.db", "dog/desktop.ini", "dog/no_ending"):
        (image_folder / name).write_text("x")
    source = open_source(str(image_folder))
    assert source.ignored == ("cat/notes.txt", "dog/no_ending")
    assert len(source.items) == 16


def test_heic_is_an_image_where_something_decodes_it(phone_folder: Path) -> None:
    pytest.importorskip("pi_heif")
    source = open_source(str(phone_folder))
    assert {"cat/a.heic", "cat/b.heif", "dog/C.HEIC"} <= set(names(source))
    assert source.ignored == ()


@pytest.mark.usefixtures("no_heif")
def test_heic_that_nothing_decodes_is_listed_and_alone_refused(
    phone_folder: Path, tmp_path: Path
) -> None:
    assert open_source(str(phone_folder)).ignored == ("cat/a.heic", "cat/b.heif", "dog/C.HEIC")
    for name in ("one/a.heic", "two/b.heic"):
        (tmp_path / "phone" / name).parent.mkdir(parents=True)
        (tmp_path / "phone" / name).write_bytes(b"x")
    words = ("2 .heic files", f"phone. Fix: {install_command('heic')}")
    refused(tmp_path / "phone", *words)


def test_the_fingerprint_follows_names_sizes_and_times(
    image_folder: Path, write_images: Write
) -> None:
    seen = [open_source(str(image_folder)).fingerprint]
    assert open_source(str(image_folder)).fingerprint == seen[0]
    file = image_folder / "cat" / "0.jpg"
    os.utime(file, ns=(1, 1))
    seen.append(open_source(str(image_folder)).fingerprint)
    file.write_bytes(file.read_bytes() + b"\0")
    os.utime(file, ns=(1, 1))
    seen.append(open_source(str(image_folder)).fingerprint)
    file.rename(file.with_name("9.jpg"))
    seen.append(open_source(str(image_folder)).fingerprint)
    assert len(set(seen)) == 4


def test_places_without_classes(tmp_path: Path, write_images: Write) -> None:
    refused(tmp_path / "nowhere", "no such folder", "nowhere")
    (tmp_path / "data.zip").write_bytes(b"PK")
    refused(tmp_path / "data.zip", "an archive", "data.zip")
    (tmp_path / "data.txt").write_bytes(b"PK")
    refused(tmp_path / "data.txt", "not a folder", "data.txt")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no class folders", "empty")
    for name in ("a", "b"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "readme.txt").write_text("x")
    refused(tmp_path / "texts", "no images", "texts", ".jpg")
    refused(write_images(tmp_path / "one", ["only/0.jpg"]), "'only'")
    windows = r"C:\Users\me\masks"
    refused(windows, "no such folder", windows)


def test_folders_that_make_no_splits(tmp_path: Path, write_images: Write) -> None:
    for number, (folders, words) in enumerate(
        (
            ("test/a test/b", ("train", "test")),
            ("train/a train/b cat", ("'train'", "'cat'")),
            ("train/a train/b val/a val/b valid/a valid/b", ("same split",)),
        )
    ):
        root = write_images(tmp_path / str(number), [f"{f}/0.jpg" for f in folders.split()])
        refused(root, *words)


def test_the_demo_source() -> None:
    source = open_source("demo:30")
    assert source.location == "demo:30"
    assert source.classes == CLASSES
    assert [item.label for item in source.items] == [label_of(i) for i in range(30)]
    picture = source.read(source.items[4])
    assert read_image(picture).size == (128, 128)
    assert open_source("demo:31").fingerprint != source.fingerprint
    assert len(open_source("demo").items) == 3000
    for location in ("demo:29", "demo:many", "demo:-40", "demo:3.5", "demo:²"):
        refused(location, location)


def test_a_colon_in_a_path_is_just_a_character(
    tmp_path: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("C:", "odd:name", "s3:bucket", "folder:x", "sources:1", "12:30"):
        write_images(tmp_path / name, ["a/0.jpg", "b/1.jpg"])
        assert open_source(str(tmp_path / name)).classes == ("a", "b")
        assert open_source(name).classes == ("a", "b")
        refused(f"{name}missing", "no such folder", f"{name}missing")
    write_images(tmp_path / "demo", ["a/0.jpg", "b/1.jpg"])  # a folder wins over the scheme
    assert open_source("demo").classes == ("a", "b")


def test_real_photographs(real_data: Path) -> None:
    source = open_source(str(real_data / "masks"))
    assert len(source.classes) == 2
    splits = [item.split for item in source.items]
    counts = {split: splits.count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 2189, "val": 599, "test": 599}


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(grey: int) -> bytes:
    """A PNG of one pixel."""
    file = io.BytesIO()
    Image.new("L", (1, 1), grey).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    file: Path,
    labels: Sequence[Any],
    contents: Sequence[bytes | None] | None = None,
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    rows_per_group: int = 2,
) -> Path:
    """Row `i` is a pixel of grey `i`, unless contents are given; `names` is a ClassLabel."""
    contents = [picture(i) for i in range(len(labels))] if contents is None else contents
    images = [{"bytes": content, "path": None} for content in contents]
    table = pa.table({columns[0]: pa.array(images, IMAGE), columns[1]: labels})
    if names:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file, row_group_size=rows_per_group)
    return file


def greys(source: Source) -> list[Any]:
    return [read_image(source.read(item)).getpixel((0, 0))[0] for item in source.items]


def test_parquet_files_of_splits(tmp_path: Path) -> None:
    for val in ("val", "validation", "dev", "valid-00000-of-00001"):
        root = tmp_path / f"of {val}"
        write_parquet(root / "test.parquet", [0])
        write_parquet(root / "train.parquet", [1, 0, 1])
        write_parquet(root / f"{val}.parquet", [1, 0])
        (root / "classes.txt").write_text("zebra\nant bear\n\n")
        source = open_source(str(root))
        assert source.classes == ("zebra", "ant bear")
        assert [(item.name, item.label, item.split) for item in source.items] == [
            ("train/000000", 1, "train"),
            ("train/000001", 0, "train"),
            ("train/000002", 1, "train"),
            (f"{val}/000000", 1, "val"),
            (f"{val}/000001", 0, "val"),
            ("test/000000", 0, "test"),
        ]
        assert greys(source) == [0, 1, 2, 0, 1, 0]
        assert open_source(f"parquet:{root}").items == source.items


def test_parquet_as_the_hub_has_it(tmp_path: Path) -> None:
    for shard, labels in enumerate(([0, 1, 2], [2, 1])):
        file = tmp_path / "data" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(file, labels, names=["b", "a", "c"])
    (tmp_path / "README.md").write_text("---")
    source = open_source(str(tmp_path))
    assert source.classes == ("b", "a", "c")
    assert names(source)[2:4] == [
        "data/train-00000-of-00002/000002",
        "data/train-00001-of-00002/000000",
    ]
    assert [item.label for item in source.items] == [0, 1, 2, 2, 1]
    assert {item.split for item in source.items} == {"train"}
    assert greys(source) == [0, 1, 2, 0, 1]


def test_one_parquet_file(tmp_path: Path) -> None:
    source = open_source(str(write_parquet(tmp_path / "pets.parquet", [0, 1])))
    assert [(i.name, i.split) for i in source.items] == [
        ("pets/000000", None),
        ("pets/000001", None),
    ]
    source = open_source(str(write_parquet(tmp_path / "test.parquet", [0, 1])), to_train=False)
    assert {item.split for item in source.items} == {"test"}
    assert greys(source) == [0, 1]


def test_parquet_shards_without_a_split(tmp_path: Path) -> None:
    for name in ("0000", "0001"):
        write_parquet(tmp_path / f"{name}.parquet", [0, 1])
    source = open_source(str(tmp_path))
    assert names(source) == ["0000/000000", "0000/000001", "0001/000000", "0001/000001"]
    assert {item.split for item in source.items} == {None}


def test_classes_of_labels_that_nothing_names(tmp_path: Path) -> None:
    cases: list[tuple[Any, tuple[str, ...], list[int]]] = [
        ([10, 9, 2, 10], ("2", "9", "10"), [2, 1, 0, 2]),
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), ("cat", "dog"), [1, 0, 1]),
        ([-1, 0], ("-1", "0"), [0, 1]),
    ]
    for labels, classes, indices in cases:
        source = open_source(str(write_parquet(tmp_path / "train.parquet", labels)))
        assert source.classes == classes
        assert [item.label for item in source.items] == indices


def test_named_labels_follow_the_order_of_the_class_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", ["dog", "cat"])
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert [item.label for item in open_source(str(tmp_path)).items] == [0, 1]


def test_other_names_of_the_columns(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1], columns=("img", "labels"))
    assert greys(open_source(str(file))) == [0, 1]
    table = pa.table({"image": [picture(4), picture(5)], "label": [0, 1]})
    parquet.write_table(table, file)
    assert greys(open_source(str(file))) == [4, 5]


def test_a_row_without_a_picture_is_one_unreadable_image(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1, 0], [picture(7), None, b"noise"])
    source = open_source(str(file))
    assert read_image(source.read(source.items[0])).size == (1, 1)
    with pytest.raises(UnreadableImageError, match="'image'"):
        source.read(source.items[1])
    assert source.read(source.items[2]) == b"noise"


def test_parquet_is_read_from_threads_in_any_order(tmp_path: Path, monkeypatch) -> None:
    """200 rows of 80 kB in groups of 5: many more than are kept."""
    monkeypatch.setattr(parquet_source, "MOST_BYTES", KEPT_BYTES)
    noise = np.random.default_rng(0)
    contents = [noise.bytes(80_000) for _ in range(200)]
    assert sum(map(len, contents)) > 3 * KEPT_BYTES
    file = write_parquet(tmp_path / "train.parquet", [0, 1] * 100, contents, rows_per_group=5)
    source = parquet_source.open_source(str(file))
    order = noise.permutation(200)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: source.read(source.items[i]), order))
    assert found == [contents[i] for i in order]
    kept = source.read.kept  # type: ignore[attr-defined]
    assert sum(group.nbytes for group in kept.values()) < KEPT_BYTES + 2 * 410_000


def test_a_parquet_fingerprint_follows_files_and_class_names(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1])
    seen = [open_source(str(tmp_path)).fingerprint]
    assert open_source(str(tmp_path)).fingerprint == seen[0]
    os.utime(file, ns=(1, 1))
    seen.append(open_source(str(tmp_path)).fingerprint)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    seen.append(open_source(str(tmp_path)).fingerprint)
    file.rename(tmp_path / "train-0.parquet")
    seen.append(open_source(str(tmp_path)).fingerprint)
    assert len(set(seen)) == 4


def test_labels_that_are_of_no_class(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a\nb\n")
    cases: list[tuple[list[Any], tuple[str, ...]]] = [
        ([0, 1, 2], ("label 2", "row 2", "'label'", "0 to 1")),
        ([0, -1, 1], ("label -1", "row 1")),
        ([0, None, 1], ("row 1", "'label'")),
        (["a", "b", "dgo"], ("'dgo'", "row 2")),
        ([0.0, 1.0, 0.0], ("'label'", "double")),
        ([[0], [1], [0, 1]], ("'label'", "list")),
    ]
    for labels, words in cases:
        write_parquet(tmp_path / "train.parquet", labels)
        refused(tmp_path, "train.parquet", *words)
    write_parquet(tmp_path / "train.parquet", [0, 1])
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    refused(tmp_path, "'a'", "classes.txt")


def test_tables_that_are_no_image_data(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"picture": [b""], "label": [0]}, ("'image'", "picture, label")),
        ({"image": [b""], "class": [0]}, ("'label'", "image, class")),
        ({"image": ["a.jpg"], "label": [0]}, ("'image'", "string")),
        ({"image": [{"path": "a.jpg"}], "label": [0]}, ("'image'", "path: string")),
        ({"image": [b"", b""], "label": [3, 3]}, ("'3'",)),
        ({"image": pa.array([], IMAGE), "label": pa.array([], pa.int64())}, ("no rows",)),
    ]
    for table, words in cases:
        parquet.write_table(pa.table(table), tmp_path / "train.parquet")
        refused(tmp_path, str(tmp_path), *words)


def test_parquet_files_that_make_no_splits(tmp_path: Path) -> None:
    refused(f"parquet:{tmp_path}", "no Parquet file", str(tmp_path))
    refused(tmp_path / "missing.parquet", "no Parquet file", "missing.parquet")
    for files, word in (
        (("train", "extra"), "extra.parquet"),
        (("val", "test"), "all images are of test and val"),
    ):
        for name in files:
            write_parquet(tmp_path / files[0] / f"{name}.parquet", [0, 1])
        refused(tmp_path / files[0], word)


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1, 0])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, "train.parquet")
    file.write_bytes(b"")
    refused(tmp_path, "train.parquet")


def test_a_parquet_file_that_changes_after_the_listing(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1, 0])
    source = open_source(str(file))
    write_parquet(file, [0, 1, 0], rows_per_group=1)
    with pytest.raises(UserError, match="changed while it was read"):
        source.read(source.items[0])
    file.unlink()
    with pytest.raises(UserError, match=r"train\.parquet"):
        source.read(source.items[0])


def test_cifar10(real_data: Path) -> None:
    source = open_source(str(real_data / "cifar10"))
    listed = (real_data / "cifar10" / "classes.txt").read_text().split()
    assert source.classes == tuple(listed)
    splits = [item.split for item in source.items]
    assert (splits.count("train"), splits.count("test"), len(splits)) == (50_000, 10_000, 60_000)
    labels = np.array([item.label for item in source.items])
    assert np.bincount(labels[:50_000]).tolist() == [5000] * 10
    assert np.bincount(labels[50_000:]).tolist() == [1000] * 10
    for item in (source.items[0], source.items[49_999], source.items[50_000]):
        assert read_image(source.read(item)).size == (32, 32)
    column = parquet.read_table(real_data / "cifar10" / "test.parquet").slice(9_000, 1).to_pylist()
    assert source.read(source.items[59_000]) == column[0]["image"]["bytes"]
    assert source.items[59_000].label == column[0]["label"]


def test_a_flat_folder_of_a_split_is_left_out_with_a_word(tmp_path, write_images) -> None:
    """As competitions give it: `test/` of pictures that nobody has labelled."""
    write_images(tmp_path, ["train/a/0.jpg", "train/b/1.jpg", "test/2.jpg", "test/3.jpg"])
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert {item.split for item in source.items} == {"train"}
    (note,) = source.notes
    assert "test has 2 pictures, such as 2.jpg, and no class folders" in note
    assert "--unlabelled" in note
    assert len(open_unlabelled(str(tmp_path / "test")).items) == 2


def test_pictures_beside_class_folders_are_told_of(tmp_path, write_images) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg", "loose.jpg"])
    (note,) = open_source(str(tmp_path)).notes
    assert "has 1 pictures, such as loose.jpg, beside its class folders" in note


def test_a_class_that_one_split_lacks(tmp_path, write_images) -> None:
    names = [
        f"{place}/{i}.jpg"
        for place in ("train/a", "train/b", "train/c", "test/a", "test/c")
        for i in range(3)
    ]
    source = open_source(str(write_images(tmp_path, names)))
    assert source.classes == ("a", "b", "c")
    assert len(source.items) == 15


def test_class_names_in_two_forms_of_unicode(tmp_path, write_images) -> None:
    """macOS writes e and its accent as two characters."""
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    names = [f"train/{composed}/0.jpg", "train/b/1.jpg", f"train/{apart}/2.jpg"]
    source = open_source(str(write_images(tmp_path, [*names, f"test/{apart}/3.jpg"])))
    assert source.classes == ("b", composed)
    assert sorted(item.label for item in source.items) == [0, 1, 1, 1]
    table = pa.table({"image": [b"", b""], "label": [composed, apart]})
    parquet.write_table(table, tmp_path / "two.parquet")
    refused(tmp_path / "two.parquet", "two forms of Unicode")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("photos.zip", "zipfile"),
        ("photos.tar.gz", "tar -xf"),
        ("photos.TGZ", "tar"),
        ("x.7z", "7z"),
    ],
)
def test_archives_say_how_to_unpack_them(tmp_path, name, word) -> None:
    (tmp_path / name).write_bytes(b"PK")
    refused(tmp_path / name, "an archive", word)


@pytest.mark.parametrize(
    ("address", "how"),
    [
        ("https://x.org/a.zip", "curl -LO https://x.org/a.zip"),
        ("https://huggingface.co/datasets/me/mine", "write hf:me/mine"),
    ],
)
def test_addresses_say_how_to_fetch_them(address, how) -> None:
    refused(address, "not fetched from addresses", how)


def test_a_folder_around_the_class_folders_is_seen_through(tmp_path, write_images) -> None:
    """As archives unpack."""
    write_images(tmp_path, ["photos/a/0.jpg", "photos/b/1.jpg"])
    refused(tmp_path, "only one class", f"name {tmp_path / 'photos'}")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["test/a/0.jpg", "test/b/1.jpg"], "all images are of test"),
        (["val/a/0.jpg", "test/b/1.jpg"], "all images are of test and val"),
        (["a/0.jpg", "a/1.jpg"], "only one class, 'a'"),
        (["train/a/0.jpg", "test/a/1.jpg"], "only one class, 'a'"),
    ],
)
def test_what_cannot_be_trained_on_can_be_scored_on(files, said, tmp_path, write_images) -> None:
    write_images(tmp_path, files)
    assert refused(tmp_path, said).hint
    assert names(open_source(str(tmp_path), to_train=False)) == sorted(
        files, key=lambda name: ("train", "val", "test", "a").index(name.split("/")[0])
    )


def test_pictures_beside_the_folders_of_splits_are_told_of(tmp_path, write_images) -> None:
    write_images(tmp_path, ["train/a/0.jpg", "train/b/1.jpg", "x.jpg"])
    (note,) = open_source(str(tmp_path)).notes
    assert "1 pictures, such as x.jpg, beside its class folders" in note


def test_a_link_upwards_is_not_followed(tmp_path, write_images) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg"])
    (tmp_path / "b" / "up").symlink_to("..")
    assert [item.name for item in open_source(str(tmp_path)).items] == ["a/0.jpg", "b/1.jpg"]


def test_classes_of_any_name_but_litter_are_classes(tmp_path, write_images) -> None:
    write_images(tmp_path, ["__background__/0.jpg", "b/1.jpg", "@tmp/2.jpg"])
    assert open_source(str(tmp_path)).classes == ("__background__", "b")


def test_files_of_a_split_and_its_folder_are_both_read(tmp_path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "train" / "0000.parquet", [0, 1])
    assert len(open_source(str(tmp_path)).items) == 4


def test_the_hub_converts_data_sets_into_a_folder_default(tmp_path) -> None:
    write_parquet(tmp_path / "default" / "train" / "0000.parquet", [0, 1])
    assert len(open_source(str(tmp_path)).items) == 2


@pytest.mark.parametrize("above", ["", "data", "default"])
def test_a_folder_of_parquet_files_for_each_split(tmp_path, above) -> None:
    """As the Hub converts data sets: `default/train/0000.parquet`."""
    for split in ("train", "test"):
        write_parquet(tmp_path / above / split / "0000.parquet", [0, 1])
    source = open_source(str(tmp_path / above))
    assert [item.split for item in source.items] == ["train", "train", "test", "test"]
    assert source.items[0].name == "train/0000/000000"

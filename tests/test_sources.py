"""Folders of class folders: layouts, what is passed over, and every mistake with its name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.data.decode import read_image
from distill.data.demo import CLASSES, label_of
from distill.data.sources import Source, open_source
from distill.errors import UserError

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


@pytest.mark.parametrize("val", ["val", "valid", "validation", "dev", "Val"])
def test_split_folders_and_their_aliases(tmp_path: Path, write_images: Write, val: str) -> None:
    splits = ("Training", val, "testing")
    write_images(tmp_path, [f"{s}/{c}/x.png" for s in splits for c in "ba"])
    source = open_source(str(tmp_path))
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
    write_images(tmp_path, ["a/0.jpg", "a/batch 1/deep/1.jpg", "b/2.jpg"])
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert names(source) == ["a/0.jpg", "a/batch 1/deep/1.jpg", "b/2.jpg"]


def test_endings_are_compared_without_case(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["a/0.JPG", "a/1.Jpeg", "b/2.WebP"])
    assert len(open_source(str(tmp_path)).items) == 3


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg", "a/._0.jpg", ".git/x.jpg", "a/.thumbs/2.jpg"])
    write_images(tmp_path, ["__MACOSX/a.jpg"])
    (tmp_path / "a" / ".DS_Store").write_bytes(b"\0")
    source = open_source(str(tmp_path))
    assert source.classes == ("a", "b")
    assert names(source) == ["a/0.jpg", "b/1.jpg"]
    assert source.ignored == ()


def test_what_lies_deep_in_a_hidden_folder_is_hidden_too(
    tmp_path: Path, write_images: Write
) -> None:
    """Only a file's own folder was looked at, not those above it."""
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg", "a/.cache/small/0.jpg"])
    assert names(open_source(str(tmp_path))) == ["a/0.jpg", "b/1.jpg"]


def test_a_hidden_folder_above_the_root_hides_nothing(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / ".data", ["a/0.jpg", "b/1.jpg"])
    assert len(open_source(str(tmp_path / ".data")).items) == 2


def test_files_that_are_no_images_by_their_ending_are_listed(image_folder: Path) -> None:
    for name in ("cat/notes.txt", "dog/Thumbs.db", "dog/no_ending"):
        (image_folder / name).write_text("x")
    source = open_source(str(image_folder))
    assert source.ignored == ("cat/notes.txt", "dog/Thumbs.db", "dog/no_ending")
    assert len(source.items) == 16


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


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such folder", "nowhere")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"PK")
    refused(tmp_path / "data.zip", "not a folder", "data.zip")


def test_an_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no class folders", tmp_path.name)


def test_class_folders_without_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "readme.txt").write_text("x")
    refused(tmp_path, "no images", tmp_path.name, ".jpg")


def test_one_class(tmp_path: Path, write_images: Write) -> None:
    refused(write_images(tmp_path, ["only/0.jpg"]), "one class", "'only'")


def test_classes_that_differ_between_splits(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["train/cat/0.jpg", "train/dog/0.jpg", "val/cat/0.jpg", "val/dgo/0.jpg"])
    refused(tmp_path, "'dgo'", "'dog'", "train", "val")


def test_no_train_beside_test(tmp_path: Path, write_images: Write) -> None:
    refused(write_images(tmp_path, ["test/a/0.jpg", "test/b/0.jpg"]), "train", "test")


def test_splits_mixed_with_classes(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["train/a/0.jpg", "train/b/0.jpg", "cat/0.jpg"])
    refused(tmp_path, "'train'", "'cat'")


def test_two_folders_for_one_split(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, [f"{s}/{c}/0.jpg" for s in ("train", "val", "valid") for c in "ab"])
    refused(tmp_path, "same split")


def test_the_demo_source() -> None:
    source = open_source("demo:30")
    assert source.location == "demo:30"
    assert source.classes == CLASSES
    assert [item.label for item in source.items] == [label_of(i) for i in range(30)]
    picture = source.read(source.items[4])
    assert read_image(picture).size == (128, 128)
    assert open_source("demo:31").fingerprint != source.fingerprint
    assert len(open_source("demo").items) == 3000


@pytest.mark.parametrize("location", ["demo:29", "demo:many", "demo:-40", "demo:3.5", "demo:²"])
def test_a_demo_of_no_sensible_size(location: str) -> None:
    refused(location, location, "--data")


@pytest.mark.parametrize("name", ["C:", "odd:name", "s3:bucket", "folder:x", "sources:1", "12:30"])
def test_a_colon_in_a_path_is_just_a_character(
    tmp_path: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_images(tmp_path / name, ["a/0.jpg", "b/1.jpg"])
    assert open_source(str(tmp_path / name)).classes == ("a", "b")
    monkeypatch.chdir(tmp_path)
    assert open_source(name).classes == ("a", "b")
    refused(f"{name}missing", "no such folder", f"{name}missing")


def test_a_windows_path_is_a_folder_that_does_not_exist_here() -> None:
    refused(r"C:\Users\me\masks", "no such folder", r"C:\Users\me\masks")


def test_a_folder_called_demo_wins_over_the_scheme(
    tmp_path: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "demo", ["a/0.jpg", "b/1.jpg"])
    monkeypatch.chdir(tmp_path)
    assert open_source("demo").classes == ("a", "b")


def test_real_photographs(real_data: Path) -> None:
    source = open_source(str(real_data / "masks"))
    assert len(source.classes) == 2
    splits = [item.split for item in source.items]
    counts = {split: splits.count(split) for split in ("train", "val", "test")}
    assert counts == {"train": 2189, "val": 599, "test": 599}

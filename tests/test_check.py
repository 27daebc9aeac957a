"""`distill check` end to end: what it writes, what it repairs, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from distill.config import DataConfig
from distill.data.audit.listing import list_data
from distill.data.sources import open_source
from distill.data.workspace import Workspace
from distill.errors import install_command
from distill.progress import Progress

Check = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def check(distill: Callable[..., tuple[int, str, str]]) -> Check:
    """`distill check`, its options quick; gives the status, the JSON it ends with, and stderr."""

    def call(*arguments: object) -> tuple[int, dict[str, Any], str]:
        status, out, err = distill("check", *arguments, "data.size=16", "--workers", 1, "--json")
        return status, json.loads(out.splitlines()[-1]) if status == 0 else {}, err

    return call


@pytest.fixture
def leaky(write_images: Callable[..., Path], tmp_path: Path) -> Path:
    """Given splits of 6, 4 and 4 images a class; two of test are mirrored copies of train."""
    names = [
        f"{split}/{label}/{i}.png"
        for split, count in (("train", 6), ("val", 4), ("test", 4))
        for label in ("cat", "dog")
        for i in range(count)
    ]
    root = write_images(tmp_path / "images", names, size=(48, 40))
    for label in ("cat", "dog"):
        with Image.open(root / "train" / label / "0.png") as image:
            ImageOps.mirror(image).save(root / "test" / label / "0.png")
    return root


def by_kind(found: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [finding for finding in found["findings"] if finding["kind"] == kind]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_everything_is_written_down(check: Check, leaky: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, found, _ = check(leaky, "--out", out)
    assert status == 0
    written = {path.name for path in out.iterdir() if path.is_file()}
    assert written == {"data.json", "data.html", "manifest.parquet"}
    assert json.loads((out / "data.json").read_text()) == found
    assert set(found) == {
        *("location", "sha256", "task", "classes", "input_spec", "counts", "findings", "splits"),
    }
    (leak,) = by_kind(found, "leak")
    assert leak["paths"] == ["test/cat/0.png", "test/dog/0.png"]
    assert "25.0 % of the test images, 2 of 8" in leak["detail"]
    assert "test/cat/0.png" in (out / "data.html").read_text()


def test_a_manifest_is_data_of_the_same_splits(check: Check, leaky: Path, tmp_path: Path) -> None:
    _, found, _ = check(leaky, "--split", "grouped", "--out", tmp_path / "out")
    source = open_source(str(tmp_path / "out" / "manifest.parquet"))
    splits = {item.name: item.split for item in source.items}
    listed = {name: split for split, names in found["splits"].items() for name in names}
    assert splits == listed
    assert not by_kind(found, "leak")
    pairs = [(f"train/{label}/0.png", f"test/{label}/0.png") for label in ("cat", "dog")]
    assert all(splits[a] == splits[b] for a, b in pairs)
    groups = {item.name: item.group for item in source.items}
    assert all(groups[a] == groups[b] for a, b in pairs)
    _, again, _ = check(tmp_path / "out" / "manifest.parquet")
    assert again["splits"] == found["splits"]


def test_repair_moves_only_what_straddles(check: Check, leaky: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in leaky.rglob("*.png")}
    _, found, err = check(leaky, "--repair", "--out", tmp_path / "out")
    assert not by_kind(found, "leak")
    assert "2 of 28 images" in err
    listed = {name: split for split, names in found["splits"].items() for name in names}
    moved = {name for name, split in listed.items() if name.split("/")[0] != split}
    assert moved <= {f"{s}/{label}/0.png" for s in ("train", "test") for label in ("cat", "dog")}
    assert len(moved) == 2
    assert {path: path.read_bytes() for path in leaky.rglob("*.png")} == before


def test_random_splits_say_what_they_leak(
    check: Check, write_images: Callable[..., Path], tmp_path: Path
) -> None:
    """And class names are not markup."""
    classes = ("mask [on]", "[red]")
    names = [f"{label}/{i}.png" for label in classes for i in range(12)]
    root = write_images(tmp_path / "images", names, size=(48, 40))
    for label in classes:
        for i in range(12):
            copy = root / label / f"copy{i}.png"
            copy.write_bytes((root / label / f"{i}.png").read_bytes())
    _, random, _ = check(root, "--split", "random")
    _, grouped, _ = check(root)
    assert grouped["classes"] == ["[red]", "mask [on]"]
    assert by_kind(random, "leak")
    assert not by_kind(grouped, "leak")
    assert len(by_kind(grouped, "exact_duplicate")) == 24


def test_the_same_check_may_be_repeated_and_another_may_not(
    check: Check, leaky: Path, tmp_path: Path
) -> None:
    """Only the manifest was kept: the findings and the page beside it were of other splits."""
    out = tmp_path / "out"
    assert check(leaky, "--out", out)[0] == 0
    before = files_of(out)
    assert check(leaky, "--out", out)[0] == 0
    assert files_of(out) == before
    assert check("demo:30", "--out", out)[0] == 2
    status, _, err = check(leaky, "--repair", "--out", out)
    assert status == 2
    assert "--overwrite" in err
    assert files_of(out) == before
    (out / "manifest.parquet").write_bytes(b"edited")
    edited = files_of(out)
    status, _, err = check(leaky, "--out", out)
    assert status == 2
    assert "manifest.parquet" in err
    assert files_of(out) == edited
    assert check(leaky, "--repair", "--out", out, "--overwrite")[0] == 0
    assert all(files_of(out)[name] != before[name] for name in before)


def test_an_experiment_keeps_its_description(check: Check, leaky: Path, tmp_path: Path) -> None:
    """Its `data.json` was replaced, and `distill export` then ended in a traceback."""
    (tmp_path / "run").mkdir()
    for name in ("recipe.toml", "data.json"):
        (tmp_path / "run" / name).write_text("{}")
    status, _, err = check(leaky, "--out", tmp_path / "run", "--overwrite")
    assert status == 2
    assert "experiment" in err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["data.json", "recipe.toml"]


def test_mistakes_are_one_line(check: Check, leaky: Path) -> None:
    inside = leaky / "checked"
    for arguments, named in (
        (("--repair", "--split", "grouped"), "--repair"),
        (("--label-errors", "teachers/squeezenet1_1.toml"), "--out"),
        (("--weights", "file.safetensors"), "--backbone"),
        (("--split", "fair"), "data.split"),
        (("data.task=multi", "views.per_class.cat.blur=1.0"), "views.per_class"),
        (("--out", inside), str(inside)),  # results among the images
    ):
        status, _, err = check(leaky, *arguments)
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert named in err
    assert not inside.exists()


def test_several_labels(check: Check, write_images: Callable[..., Path], tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", [f"{i}.png" for i in range(40)], size=(48, 40))
    labels = ["nose;mouth", "mouth", "", "nose"]
    rows = [f"{i}.png,{labels[i % 4]}" for i in range(40)]
    (root / "labels.csv").write_text("\n".join(["fname,labels", *rows]) + "\n")
    status, _, err = check(root)
    assert status == 2
    assert 'data.task="multi"' in err
    status, found, _ = check(root, "data.task=multi", "--out", tmp_path / "out")
    assert status == 0
    assert found["task"] == "multi"
    assert found["classes"] == ["mouth", "nose"]
    assert sum(counts["nose"] for counts in found["counts"].values()) == 20
    source = open_source(str(tmp_path / "out" / "manifest.parquet"), "multi")
    known = {item.name: item.label for item in source.items}
    assert known["0.png"] == (0, 1)
    assert known["2.png"] == ()


@pytest.mark.usefixtures("no_heif")
def test_heic_that_nothing_decodes_is_warned_of_once(
    distill: Callable[..., tuple[int, str, str]], phone_folder: Path, tmp_path: Path
) -> None:
    status, out, err = distill("check", phone_folder, "--out", tmp_path / "out")
    assert (status, install_command("heic") in err) == (0, False)
    (said,) = [line for line in out.splitlines() if install_command("heic") in line]
    assert said.startswith("warning: ignored cat/a.heic")
    findings = json.loads((tmp_path / "out" / "data.json").read_text())["findings"]
    assert [f["severity"] for f in findings if f["kind"] == "ignored"] == ["warning"]


def test_published_splits_leak(check: Check, real_data: Path, tmp_path: Path) -> None:
    """Of the end of each folder of photographs, where most of the copies are."""
    for split, first in (("train", 800), ("val", 280), ("test", 200)):
        for folder in (real_data / "masks" / split).iterdir():
            (tmp_path / split / folder.name).mkdir(parents=True)
            for file in folder.iterdir():
                if int(file.stem) >= first:
                    (tmp_path / split / folder.name / file.name).symlink_to(file)
    _, found, _ = check(tmp_path)
    (leak,) = [
        f for f in by_kind(found, "leak") if "test images" in f["detail"] and "train" in f["detail"]
    ]
    assert 10 < len(leak["paths"]) < 30  # mirrored photographs, looked at one by one
    assert "test/with_mask/0218.jpg" in leak["paths"]


def test_given_groups_do_not_hide_copies(check: Check, leaky: Path, tmp_path: Path) -> None:
    """A source in which every image had a group was not looked at by a run."""
    rows = [
        f"{file.relative_to(leaky).as_posix()},{file.parent.name},person {i}"
        for i, file in enumerate(sorted(leaky.rglob("*.png")))
    ]
    (leaky / "manifest.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    listing = list_data(
        open_source(str(leaky / "manifest.csv")),
        DataConfig(),
        0,
        Workspace(tmp_path / "kept", 1, Progress(quiet=True)),
    )
    groups = dict(zip((item.name for item in listing.items), listing.groups, strict=True))
    assert groups["train/cat/0.png"] == groups["test/cat/0.png"]
    assert [f.kind for f in listing.findings if f.kind == "near_duplicate"]


def test_a_place_that_cannot_be_written_is_one_line(
    check: Check, leaky: Path, tmp_path: Path
) -> None:
    """An `--out` that is a file, or below one, ended in a traceback."""
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, err = check(leaky, "--out", out)
        assert status == 2
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("error: ")


def test_images_that_are_no_files_have_no_manifest(check: Check, tmp_path: Path) -> None:
    status, _, _ = check("demo:30", "--out", tmp_path / "out")
    assert status == 0
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    status, _, err = check("demo:30", "--repair", "--out", tmp_path / "more")
    assert status == 2
    assert "data.split=grouped" in err


def test_a_folder_of_pictures_is_no_place_for_results(photos, image_folder, distill):
    """A repaired manifest beside class folders would have made them another data set."""
    before = sorted(image_folder.rglob("*"))
    status, _, err = distill("check", photos, "--repair", "--out", image_folder)
    assert (status, "a folder of pictures" in err) == (2, True), err
    assert sorted(image_folder.rglob("*")) == before


def test_what_is_odd_is_told_before_splits_fail(distill, write_images, tmp_path):
    """Nothing was said of them."""
    names = [f"{c}/{i}.png" for c, count in (("a", 2), ("b", 8)) for i in range(count)]
    folder = write_images(tmp_path / "images", names)
    (folder / "a" / "0.png").write_bytes(b"no picture")
    for command in (
        ("check", folder),
        ("run", folder, "--preset", "fast", "--out", tmp_path / "o"),
    ):
        status, _out, err = distill(*command)
        assert status == 2
        lines = err.splitlines()
        assert lines[-1].startswith("error: class 'a' has")
        assert [line for line in lines[:-1] if line.startswith("warning: unreadable a/0.png")]


def test_a_folder_whose_pictures_are_blank(distill, tmp_path):
    for index in range(24):
        file = tmp_path / "images" / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (index, 0, 0)).save(file)
    _status, out, err = distill("check", tmp_path / "images")
    assert "24 of 24 images show one colour only" in out + err
    assert "--split grouped" not in out


def test_notes_of_the_layout_are_findings(check, leaky, tmp_path):
    for file in (leaky / "val" / "dog").iterdir():
        file.unlink()
    for file in (leaky / "test").rglob("*.png"):
        file.rename(leaky / "test" / f"{file.parent.name}-{file.name}")
    for folder in (leaky / "test" / "cat", leaky / "test" / "dog"):
        folder.rmdir()
    status, found, _ = check(leaky)
    assert status == 0
    flat, lacking = (finding["detail"] for finding in by_kind(found, "listing"))
    assert "test has 8 pictures" in flat
    assert "val has no image of dog" in lacking


def test_what_is_odd_is_told_where_a_class_cannot_be_read(distill, write_images, tmp_path):
    names = [f"{c}/{i}.png" for c in "ab" for i in range(8)]
    folder = write_images(tmp_path / "images", names)
    for file in (folder / "a").iterdir():
        file.write_bytes(b"no picture")
    status, _, err = distill("run", folder, "--preset", "fast", "--out", tmp_path / "o")
    assert status == 2
    lines = err.splitlines()
    assert "no readable image in train" in lines[-1]
    assert "split=grouped" not in lines[-1]  # no split has an image of it
    assert [line for line in lines if line.startswith("warning: unreadable a/0.png")]

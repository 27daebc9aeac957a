"""Writing manifests: what is written is read again as it was, or refused."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from distill.data.sources import open_source, open_unlabelled
from distill.data.sources._manifest import rows_of, write_manifest
from distill.errors import UserError
from distill.files import sha256_of

Write = Callable[..., Path]
ENDINGS = ("csv", "parquet")


def refused(path: Path, rows: list[dict[str, Any]], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        write_manifest(path, rows)
    for word in words:
        assert word in str(caught.value)
    assert not list(path.parent.glob(f"{path.name}*")), "something was written"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_as_a_manifest_beside_above_and_inside_it(
    tmp_path: Path, write_images: Write, ending: str
) -> None:
    names = [f"{s}/{c}/{i}.jpg" for s in ("train", "val") for c in ("a b", "ü") for i in range(2)]
    source = open_source(str(write_images(tmp_path / "images", names)))
    for place in ("x", "lists/x", "images/x"):
        file = tmp_path / f"{place}.{ending}"
        write_manifest(file, rows_of(source), source.root)
        again = open_source(str(file))
        assert again.items == source.items
        assert (again.classes, again.task) == (source.classes, "single")
        assert [again.read(i) for i in again.items] == [source.read(i) for i in source.items]


def test_a_csv_is_plain_text(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "images", ["a/0.jpg", "b/1.jpg"])
    rows = [
        {"path": "a/0.jpg", "label": "a", "split": None, "group": "x"},
        {"path": "b/1.jpg", "label": "b, c", "group": None},
    ]
    write_manifest(tmp_path / "lists" / "m.csv", rows, tmp_path / "images")
    text = (tmp_path / "lists" / "m.csv").read_bytes()
    expected = '# root: ../images\npath,label,group\na/0.jpg,a,x\nb/1.jpg,"b, c",\n'
    assert text == expected.encode()
    write_manifest(tmp_path / "images" / "m.csv", rows, tmp_path / "lists" / ".." / "images")
    assert (tmp_path / "images" / "m.csv").read_text().startswith("path,label,group\n")


def test_a_parquet_manifest_names_its_root_in_the_metadata(
    tmp_path: Path, write_images: Write
) -> None:
    write_images(tmp_path / "images", ["a/0.jpg"])
    write_manifest(tmp_path / "m.parquet", [{"path": "a/0.jpg"}], tmp_path / "images")
    table = parquet.read_table(tmp_path / "m.parquet")
    assert table.schema.metadata == {b"root": b"images"}
    assert table.to_pydict() == {"path": ["a/0.jpg"]}


def test_a_manifest_below_a_link_finds_its_images(tmp_path: Path, write_images: Write) -> None:
    """`..` after a link leads to the parent of what it points to."""
    write_images(tmp_path / "images", ["a/0.jpg", "b/1.jpg"])
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    source = open_source(str(tmp_path / "images"))
    write_manifest(tmp_path / "link" / "m.csv", rows_of(source), source.root)
    assert open_source(str(tmp_path / "link" / "m.csv")).items == source.items
    assert open_source(str(tmp_path / "far" / "away" / "m.csv")).items == source.items


ALPHABET = [*"ab 0,'\"\t\n\r#=@\\|é中\u0301🙂", "# root:", "path", "label", ".."]


def draw(rng: np.random.Generator, extra: str = "") -> str:
    """A short text of what is awkward in tables."""
    return "".join(rng.choice([*ALPHABET, *extra], rng.integers(1, 6)))


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_is_written_comes_back(tmp_path: Path, write_images: Write, ending: str) -> None:
    """Random names of files, classes and groups."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        shown = ("".join(filter(str.isprintable, draw(rng))) for _ in range(3))
        classes = sorted(f"{number}{name}." for number, name in enumerate(shown))
        files = sorted({f"{draw(rng, ';')}x.jpg" for _ in range(6)})
        groups = [draw(rng, ";").strip() or None for _ in files]
        images = write_images(tmp_path / f"images {seed}", files)
        for multi in (False, True):
            rows: list[dict[str, Any]] = []
            for number, (file, group) in enumerate(zip(files, groups, strict=True)):
                chosen = tuple(
                    name for place, name in enumerate(classes) if number + 1 & 1 << place
                )
                label = chosen if multi else classes[number % 3]
                rows.append({"path": file, "label": label, "split": "train", "group": group})
            path = tmp_path / f"m.{ending}"
            write_manifest(path, rows, images)
            source = open_source(str(path), "multi" if multi else "single")
            assert rows_of(source) == rows
            assert source.classes == tuple(classes)


@pytest.mark.parametrize("ending", ENDINGS)
def test_images_without_labels(tmp_path: Path, write_images: Write, ending: str) -> None:
    """No label column where nothing is known; a column of empty cells where there is no label."""
    write_images(tmp_path, ["0.jpg", "1.jpg"])
    path = tmp_path / f"m.{ending}"
    unlabelled = open_unlabelled(str(tmp_path))
    write_manifest(path, rows_of(unlabelled))
    assert open_unlabelled(str(path)).items == unlabelled.items
    with pytest.raises(UserError, match="label"):
        open_source(str(path))
    write_manifest(path, [{"path": "0.jpg", "label": ()}, {"path": "1.jpg", "label": ("a", "b")}])
    assert [i.label for i in open_source(str(path), "multi").items] == [(), (0, 1)]


def test_hashes_are_written(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg"])
    rows = rows_of(open_source(str(tmp_path)))
    for row in rows:
        row["sha256"] = sha256_of(tmp_path / row["path"])
    write_manifest(tmp_path / "m.csv", rows)
    found = list(csv.DictReader(io.StringIO((tmp_path / "m.csv").read_text())))
    assert [row["sha256"] for row in found] == [row["sha256"] for row in rows]
    assert len(open_source(str(tmp_path / "m.csv")).items) == 2


UNREADABLE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"label": "nose;mouth"}, ("'nose;mouth'",)),
    ({"label": ("a", "b;c")}, ("'b;c'",)),
    ({"label": " a"}, ("row 1", "' a'")),
    ({"label": ""}, ("row 1",)),
    ({"label": ("a", "a")}, ("row 1", "repeated")),
    ({"label": "A"}, ("row 1", "'A'", "'a'", "row 0")),
    ({"label": None}, ("row 1", "no label")),
    ({"path": "0.jpg"}, ("row 1", "'0.jpg'", "row 0")),
    ({"path": "../0.jpg"}, ("row 1", "'../0.jpg'")),
    ({"path": "/0.jpg"}, ("row 1", "'/0.jpg'")),
    ({"path": "a//0.jpg"}, ("row 1", "'a//0.jpg'", "'a/0.jpg'")),
    ({"path": ""}, ("row 1", "no path")),
    ({"path": "\udcff.jpg"}, ("Unicode",)),
    ({"split": "holdout"}, ("row 1", "'holdout'", "validation")),
    ({"split": "valid"}, ("row 1", "'valid'", "'val'")),
    ({"split": None}, ("row 1", "no split")),
    ({"group": "g "}, ("row 1", "'g '", "'g'")),
    ({"sha256": "abc"}, ("row 1", "'abc'", "64")),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_could_not_be_read_again_is_refused(tmp_path: Path, ending: str) -> None:
    first = {"path": "0.jpg", "label": "a", "split": "train"}
    for changed, message in UNREADABLE:
        rows = [first, {"path": "1.jpg", "label": "b", "split": "train"} | changed]
        refused(tmp_path / f"m.{ending}", rows, *message)
    refused(tmp_path / "m.json", rows, ".csv", ".parquet")


def test_images_that_are_no_files_make_no_manifest() -> None:
    with pytest.raises(UserError, match="demo:30"):
        rows_of(open_source("demo:30"))


def test_an_existing_manifest_survives_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write_manifest(path, [{"path": "0.jpg", "label": "a"}])
    before = path.read_bytes()
    with pytest.raises(UserError):
        write_manifest(path, [{"path": "\udcff.jpg", "label": "a"}])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]

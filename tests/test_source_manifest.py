"""Reading manifests: columns, labels, splits, and every mistake with the row it is in."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from distill.data.decode import read_image
from distill.data.sources import Item, open_source, open_unlabelled
from distill.errors import UserError
from distill.files import sha256_of

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, write_images: Write) -> Path:
    """Four images, `0.jpg` to `3.jpg`."""
    return write_images(tmp_path, [f"{i}.jpg" for i in range(4)])


def write(folder: Path, text: str | bytes, name: str = "m.csv") -> str:
    content = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(content)
    return str(folder / name)


def write_table(folder: Path, columns: dict[str, Any], name: str = "m.parquet") -> str:
    parquet.write_table(pa.table(columns), folder / name)
    return str(folder / name)


def refused(location: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        open_source(location)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert caught.value.hint
    return message


FULL = """path,label,split,group,sha256,remark
3.jpg,dog,Training,g1,,x
0.jpg, cat ,valid,,,"a, b"
1.jpg,dog,test, g1 ,,
"""


@pytest.mark.parametrize("scheme", ["", "manifest:"])
def test_all_columns_in_the_order_of_the_rows(folder: Path, scheme: str) -> None:
    source = open_source(scheme + write(folder, FULL))
    assert source.classes == ("cat", "dog")
    assert source.items == (
        Item("3.jpg", 1, "train", "g1"),
        Item("0.jpg", 0, "val", None),
        Item("1.jpg", 1, "test", "g1"),
    )
    assert (source.task, source.root) == ("single", folder)
    assert source.read(source.items[0]) == (folder / "3.jpg").read_bytes()


def test_parquet_gives_what_csv_gives(folder: Path) -> None:
    columns = {
        "fname": ["3.jpg", "0.jpg", "1.jpg"],
        "tags": pa.array(["dog", "cat", "dog"]).dictionary_encode(),
        "split": pa.array(["train", "val", "test"], pa.large_string()),
        "group": ["g1", None, "g1"],
        "sha256": pa.nulls(3),
        "embedding": [[0.5], [1.5], [2.5]],
    }
    assert open_source(write_table(folder, columns)).items == open_source(write(folder, FULL)).items
    numbered = write_table(folder, {"image": ["0.jpg", "1.jpg"], "label": [12, 3]})
    assert open_source(numbered).classes == ("12", "3")


def test_names_of_the_columns(folder: Path) -> None:
    for header in (
        "path,label",
        "fname,labels",
        "Filename,Class",
        " file , tags ",
        "image,label",
        "file_name,class",
    ):
        source = open_source(write(folder, f"{header}\n0.jpg,a\n1.jpg,b\n"))
        assert [item.name for item in source.items] == ["0.jpg", "1.jpg"]


def test_our_name_of_a_column_comes_first(folder: Path) -> None:
    text = "image,path,labels,label\nx,0.jpg,y,a\nx,1.jpg,z,b\n"
    assert open_source(write(folder, text)).classes == ("a", "b")
    refused(write(folder, "file,image,label\n"), "'file'", "'image'")
    refused(write(folder, "path,label,label\n"), "'label'")


def test_how_programs_write_csv(folder: Path) -> None:
    for text in (
        "path;label\n0.jpg;a\n1.jpg;b\n",
        '"path";"label"\n"0.jpg";"a"\n"1.jpg";"b"\n',
        "path\tlabel\n0.jpg\ta\n1.jpg\tb\n",
        "\ufeffpath,label\r\n0.jpg,a\r\n1.jpg,b\r\n",
        "path,label\n\n0.jpg,a\n,\n1.jpg,b\n\n\n",
        '"path","label"\n"0.jpg","a"\n"1.jpg","b"',
        "path,label\n./0.jpg,a\nx/../1.jpg,b\n",
        'path,label,note\n0.jpg,a,"two\nlines"\n1.jpg,b,\n',
    ):
        source = open_source(write(folder, text))
        assert [(i.name, i.label) for i in source.items] == [("0.jpg", 0), ("1.jpg", 1)]


def test_several_labels_or_none(folder: Path) -> None:
    location = write(folder, "path,label\n0.jpg,nose; mouth\n1.jpg,\n2.jpg,chin\n")
    source = open_source(location, "multi")
    assert source.classes == ("chin", "mouth", "nose")
    assert [item.label for item in source.items] == [(1, 2), (), (0,)]
    assert source.task == "multi"
    refused(location, "0.jpg has 2 labels", 'data.task="multi"')
    refused(write(folder, "path,label\n0.jpg,a\n1.jpg,\n2.jpg,b\n"), "1.jpg has 0 labels")


def test_one_label_each_serves_both_tasks(folder: Path) -> None:
    location = write(folder, "path,label\n0.jpg,b\n1.jpg,a\n")
    assert [item.label for item in open_source(location).items] == [1, 0]
    several = open_source(location, "multi")
    assert [item.label for item in several.items] == [(1,), (0,)]
    assert several.task == "multi"


def test_a_multi_label_source_of_one_label_each_opens_as_single(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for the image to complain of found none, and raised StopIteration."""
    from distill.data.sources import demo

    several = open_source(write(folder, "path,label\n0.jpg,b\n1.jpg,a\n"), "multi")
    monkeypatch.setattr(demo, "open_source", lambda rest: several)
    source = open_source("demo")
    assert [item.label for item in source.items] == [1, 0]
    assert source.task == "single"
    unlabelled = open_unlabelled("demo")
    assert [item.label for item in unlabelled.items] == [-1, -1]
    assert unlabelled.task == "single"


def test_a_folder_with_a_manifest_and_its_images_below(tmp_path: Path, write_images: Write) -> None:
    for name in ("labels.csv", "manifest.csv"):
        folder = write_images(tmp_path / name, ["images/0.jpg", "images/1.jpg", "2.jpg"])
        write(folder, "fname,labels\n0.jpg,a\nimages/1.jpg,b\n2.jpg,a\n", name)
        source = open_source(str(folder))
        assert [item.name for item in source.items] == ["images/0.jpg", "images/1.jpg", "2.jpg"]
        assert source.read(source.items[0]) == (folder / "images" / "0.jpg").read_bytes()
        write(folder, "fname,labels\n0.jpg,a\nimages/0.jpg,b\n", name)
        refused(str(folder), "line 3", "'images/0.jpg'", "line 2")


def test_a_folder_with_a_parquet_manifest(folder: Path) -> None:
    write_table(folder, {"path": ["0.jpg", "1.jpg"], "label": ["a", "b"]}, "manifest.parquet")
    assert len(open_source(str(folder)).items) == 2
    write(folder, "path,label\n", "labels.csv")
    refused(str(folder), "labels.csv", "manifest.parquet")


def test_a_table_of_pictures_is_no_manifest(folder: Path) -> None:
    """One column of pictures and one of paths, as the Hub has it; the pictures are what counts."""
    image = [{"bytes": (folder / f"{i}.jpg").read_bytes(), "path": f"{i}.jpg"} for i in range(2)]
    columns = {"image": image, "file_name": ["0.jpg", "1.jpg"], "label": ["a", "b"]}
    source = open_source(write_table(folder, columns))
    assert [item.name for item in source.items] == ["m/000000", "m/000001"]
    write_table(folder, columns, "manifest.parquet")
    assert open_source(str(folder)).items[0].name == "m/000000"
    refused(f"manifest:{folder}", "labels.csv, manifest.csv, manifest.parquet")


def test_a_root_elsewhere(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "far, away", ["0.jpg", "images/1.jpg"])
    (tmp_path / "lists").mkdir()
    text = '"# root: ../far, away",\npath,label\n0.jpg,a\nimages/1.jpg,b\n'
    source = open_source(write(tmp_path / "lists", text))
    assert source.root == tmp_path / "far, away"
    assert [read_image(source.read(item)).size for item in source.items] == [(20, 16)] * 2
    absolute = f"# root: {tmp_path / 'far, away'}\n".replace(", ", "_")
    refused(write(tmp_path / "lists", absolute + "path,label\n0.jpg,a\n"), "far_away")
    for row in ("../lists/m.csv,b", "1.jpg,b"):  # out of the root; only below images/
        refused(write(tmp_path / "lists", text.replace("images/1.jpg,b", row)), "line 4")


def test_paths_stay_inside_but_links_lead_anywhere(tmp_path: Path, write_images: Write) -> None:
    write_images(tmp_path / "out", ["0.jpg", "1.jpg"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "0.jpg").symlink_to(tmp_path / "out" / "0.jpg")
    inside = f"{tmp_path}/in/0.jpg"
    source = open_source(write(tmp_path / "in", f"path,label\n{inside},a\nlinked/1.jpg,b\n"))
    assert [item.name for item in source.items] == ["0.jpg", "linked/1.jpg"]
    for path in ("../out/1.jpg", f"{tmp_path}/out/1.jpg", "linked/../../out/1.jpg", "/etc/hosts"):
        text = f"path,label\n0.jpg,a\n{path},b\n"
        refused(write(tmp_path / "in", text), "line 3", repr(path), str(tmp_path))

    # A root whose name begins as another folder's does not hold that one.
    write_images(tmp_path, ["data/0.jpg", "data2/1.jpg"])
    refused(write(tmp_path / "data", "path,label\n0.jpg,a\n../data2/1.jpg,b\n"), "line 3")


MISTAKES: list[tuple[str | bytes, tuple[str, ...]]] = [
    ("", ("no columns",)),
    ("\n\n", ("no columns",)),
    ("# root: .\n", ("no columns",)),
    ("path,label\n", ("no rows",)),
    ("path,label\n,\n", ("no rows",)),
    ("a,b,c\n", ("'a', 'b', 'c'", "fname", "tags")),
    ("path,tag\n", ("'path', 'tag'", "labels")),
    ("path,label\n0.jpg,a\n1.jpg\n", ("line 3", "1 cells")),
    ("path,label\n0.jpg,a,b\n", ("line 2", "3 cells")),
    ('path,label\n"0.jpg,a\n1.jpg,b\n', ("line 2", "CSV")),
    ('path,label\n0.jpg,a\n"1"x.jpg,b\n', ("line 3", "CSV")),
    (b"path,label\n0.jpg,a\n\xe91.jpg,b\n", ("line 3", "UTF-8")),
    ("path,label\n0.jpg,a\n".encode("utf-16"), ("line 1", "UTF-8")),
    ("path,label\n0.jpg,a\n ,b\n", ("line 3", "no path")),
    ("path,label\n0.jpg,a\n\0,b\n", ("line 3", "no path")),
    ("path,label\n0.jpg,a\n.,b\n", ("line 3", "'.'")),
    ("path,label\n0.jpg,a\n1.jpg,b\n0.jpg,a\n", ("line 4", "'0.jpg'", "line 2")),
    ("path,label\n0.jpg,a\n1.jpg,b\n./0.jpg,b\n", ("line 4", "'./0.jpg'", "line 2")),
    ("path,label\n0.jpg,a\n1.jpg,a\n", ("'a'",)),
    ("path,label\n0.jpg,\n1.jpg,\n", ("no label",)),
    ("path,label\n0.jpg,a\n1.jpg,b;\n", ("line 3", "'b;'")),
    ("path,label\n0.jpg,a\n1.jpg,b;a;b\n", ("line 3", "'b;a;b'")),
    ("path,label\n0.jpg,a\n1.jpg,A\n", ("line 3", "'A'", "'a'", "line 2")),
    ("path,label\n0.jpg,a b\n1.jpg,ab\n", ("line 3", "'ab'", "'a b'", "line 2")),
    ("path,label\n0.jpg,\u00e9\n1.jpg,e\u0301\n", ("line 3", "line 2")),
    ('path,label,x\n0.jpg,a,"two\nlines"\n\n1.jpg,A,\n', ("line 5", "line 2")),
    ("path,label,split\n0.jpg,a,train\n1.jpg,b,hold\n", ("line 3", "'hold'", "train, ")),
    ("path,label,split\n0.jpg,a,train\n1.jpg,b,\n", ("line 3", "no split")),
    ("path,label,split\n0.jpg,a,\n1.jpg,b,train\n", ("line 2", "no split")),
    ("path,label,split\n0.jpg,a,val\n1.jpg,b,test\n", ("train", "test and val")),
    ("path,label,sha256\n0.jpg,a,\n1.jpg,b,xyz\n", ("line 3", "'xyz'", "64")),
]


def test_mistakes(folder: Path) -> None:
    for text, words in MISTAKES:
        refused(write(folder, text), "m.csv", *words)


def test_mistakes_in_parquet_name_the_row(folder: Path) -> None:
    columns: dict[str, Any] = {"path": ["0.jpg", "1.jpg", "2.jpg"], "label": ["a", "b", "B"]}
    refused(write_table(folder, columns), "row 2", "'B'", "row 1")
    refused(write_table(folder, columns | {"label": [[1], [2], []]}), "list")
    refused(write_table(folder, {"path": ["0.jpg"]}), "label", "'path'")
    refused(f"manifest:{write_table(folder, {'label': ['a']})}", "path")


def test_a_missing_manifest(tmp_path: Path) -> None:
    refused(str(tmp_path / "no.csv"), "no.csv")
    refused(f"manifest:{tmp_path}", "labels.csv")


def test_a_split_column_of_empty_cells_or_of_one_split(folder: Path) -> None:
    """Empty cells give no split; a manifest of test alone can be scored on."""
    for cells, split in ((",\n1.jpg,b, ", None), (",test\n1.jpg,b,test", "test")):
        text = f"path,label,split\n0.jpg,a{cells}\n"
        source = open_source(write(folder, text), to_train=False)
        assert {item.split for item in source.items} == {split}


def test_missing_files_are_counted_and_the_first_named(folder: Path) -> None:
    rows = "".join(f"x{i}.jpg,b\n" for i in range(1200))
    text = f"path,label\n0.jpg,a\n{rows}"
    message = refused(write(folder, text), "line 3 'x0.jpg'", "line 5 'x2.jpg'", str(folder))
    assert "1,197 more of 1,201" in message
    assert "x3" not in message
    (folder / "sub").mkdir()
    refused(write(folder, "path,label\n0.jpg,a\nsub,b\n"), "line 3 'sub'")
    refused(write(folder, f"path,label\n0.jpg,a\n{'x' * 300},b\n"), "line 3 'xxx")
    refused(write(folder, "path,label\n0.jpg,a\nb\\1.jpg,b\n"), "line 3", "/ instead of \\")


def test_hashes_are_compared(folder: Path) -> None:
    good, other = (sha256_of(folder / name) for name in ("0.jpg", "1.jpg"))
    text = f"path,label,sha256\n0.jpg,a,{good.upper()}\n1.jpg,b,\n"
    assert len(open_source(write(folder, text)).items) == 2
    (folder / "1.jpg").write_bytes(b"changed")
    assert len(open_source(write(folder, text)).items) == 2
    text = f"path,label,sha256\n0.jpg,a,{good}\n1.jpg,b,{other}\n"
    refused(write(folder, text), "SHA-256", "line 3 '1.jpg'", "m.csv")


def test_of_many_columns_a_few_are_named(folder: Path) -> None:
    for count in (9, 20_000):
        names = [f"c{i}" for i in range(count)]
        message = refused(write(folder, ",".join(names)), "'c7'", f"{count - 8:,} more")
        assert "c8" not in message
        text = ",".join([*names, "path", "label"]) + "\n"
        for row in ("0.jpg,a", "1.jpg,b"):
            text += "," * count + row + "\n"
        assert len(open_source(write(folder, text)).items) == 2
    # Junk without line ends is not repeated either.
    assert len(refused(write(folder, "x" * 100_000), "no path")) < 500


def test_unlabelled_manifests(folder: Path) -> None:
    """The one place where a column of labels may be missing; if it is there, it is passed over."""
    location = write(folder, "path\n1.jpg\n0.jpg\n")
    source = open_unlabelled(location)
    assert source.items == (Item("1.jpg", -1), Item("0.jpg", -1))
    refused(location, "label")
    for text in ("path,label\n1.jpg,a\n0.jpg,A;\n", "path;split\n1.jpg;train\n0.jpg;train\n"):
        source = open_unlabelled(write(folder, text))
        assert [(i.name, i.label) for i in source.items] == [("1.jpg", -1), ("0.jpg", -1)]
        assert source.task == "single"


def test_the_fingerprint_follows_what_is_read(folder: Path) -> None:
    seen = [open_source(write(folder, FULL)).fingerprint]
    write(folder, FULL.replace("a, b", "another remark"))
    assert open_source(str(folder / "m.csv")).fingerprint == seen[0]
    for text in (
        FULL.replace("dog,test", "cat,test"),
        FULL.replace("test", "val"),
        FULL.replace("g1 ", "g2"),
        FULL.replace("3.jpg", "2.jpg"),
        FULL.replace("cat", "cow"),
    ):
        seen.append(open_source(write(folder, text)).fingerprint)
    os.utime(folder / "0.jpg", ns=(1, 1))
    seen.append(open_source(write(folder, FULL)).fingerprint)
    (folder / "0.jpg").write_bytes(b"x")
    os.utime(folder / "0.jpg", ns=(1, 1))
    seen.append(open_source(write(folder, FULL)).fingerprint)
    assert len(set(seen)) == 8


def test_csv_needs_neither_torch_nor_pyarrow(folder: Path) -> None:
    write(folder, "path,label\n0.jpg,a\n1.jpg,b\n", "labels.csv")
    script = (
        "import sys\n"
        "sys.modules.update(torch=None, pyarrow=None, torchvision=None, huggingface_hub=None)\n"
        "from distill.data.sources import open_source\n"
        f"assert len(open_source({str(folder)!r}).items) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_real_multi_label_images(real_data: Path) -> None:
    source = open_source(str(real_data / "maskparts"), "multi")
    assert source.classes == ("chin", "mouth", "nose")
    assert len(source.items) == 1354
    # grep -c of the file: `,$` 300, `;` 1015, and 39 of a single label
    sizes = Counter(len(item.label) for item in source.items if isinstance(item.label, tuple))
    assert (sizes[0], sizes[1], sizes[2] + sizes[3]) == (300, 39, 1015)
    for item in source.items[::200]:
        assert min(read_image(source.read(item)).size) <= 160
        parts = {source.classes[i] for i in item.label}  # type: ignore[union-attr]
        assert parts == set(Path(item.name).stem.split("_")[:-1]) - {"none"}


@pytest.mark.parametrize(
    ("labels", "mark"),
    [
        (("hat, scarf", "hat", "scarf, bag"), ","),
        (("hat|scarf", "scarf|bag", "bag"), "|"),
        (("hat / scarf", "hat", "bag"), "/"),
        (("a b", "b c", "a c", "a b c", "a", "b", "c"), " "),
    ],
)
def test_labels_that_seem_several_are_warned_of_and_parted(folder, labels, mark) -> None:
    """`hat, scarf` became one class without a word."""
    for index in range(len(labels)):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.jpg")
    rows = "".join(f'{i}.jpg,"{label}"\n' for i, label in enumerate(labels))
    source = open_source(write(folder, f"path,label\n{rows}"))
    assert source.classes == tuple(sorted(labels))
    (note,) = source.notes
    assert "is taken for one label" in note
    line = note.partition("write '")[2].partition("'")[0]
    assert line == f"# separator: {mark}".rstrip()
    source = open_source(write(folder, f"{line}\npath,label\n{rows}"), None)
    parts = [{part.strip() for part in label.split(mark)} for label in labels]
    assert source.notes == ()
    assert source.task == "multi"
    assert [{source.classes[k] for k in item.label} for item in source.items] == parts
    pictures = tmp_root(folder)
    rooted = write(pictures, f"# root: ../{folder.name}\n{line}\npath,label\n{rows}")
    assert open_source(rooted, None).classes == source.classes


def tmp_root(folder: Path) -> Path:
    (beside := folder.parent / "beside").mkdir(exist_ok=True)
    return beside


@pytest.mark.parametrize(
    "labels",
    [
        ("tench, Tinca tinca", "goldfish, Carassius auratus", "shark"),
        ("red car", "blue car", "lorry"),
        ("hat; scarf, wool", "scarf, wool", "hat"),
        ("and/or", "not", "xor"),
    ],
)
def test_phrases_are_labels_like_any_other(folder, labels) -> None:
    for index in range(3):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.jpg")
    rows = "".join(f'{i}.jpg,"{label}"\n' for i, label in enumerate(labels))
    assert open_source(write(folder, f"path,label\n{rows}"), None).notes == ()


@pytest.mark.parametrize("marks", [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("1", "-1")])
def test_a_column_for_each_class(folder, marks) -> None:
    """As Kaggle, Roboflow and CelebA have them."""
    yes, no = marks
    rows = f"0.jpg,{yes},{no},{no}\n1.jpg,{no},{yes},{yes}\n"
    source = open_source(write(folder, f"image_id, hat, scarf, bag\n{rows}"), None)
    assert source.task == "multi"
    assert source.classes == ("bag", "hat", "scarf")
    assert [item.label for item in source.items] == [(1,), (0, 2)]
    assert "its classes are its columns 'hat', 'scarf', 'bag'" in source.notes[0]
    one = f"image_id,hat,scarf\n0.jpg,{yes},{no}\n1.jpg,{no},{yes}\n"
    assert [item.label for item in open_source(write(folder, one)).items] == [0, 1]


def test_columns_of_anything_else_are_no_classes(folder) -> None:
    for rows in ("0.jpg,1,2\n1.jpg,0,1\n", "0.jpg,0,0\n1.jpg,0,0\n", "0.jpg,x,1\n1.jpg,1,1\n"):
        refused(write(folder, f"path,hat,scarf\n{rows}"), "no label column", "hat", "scarf")


@pytest.mark.parametrize("names", [("path", "hat", "bag"), ("id", "hat", "bag")])
def test_a_parquet_column_for_each_class_or_of_lists(folder, names) -> None:
    columns = dict(zip(names, (["0.jpg", "1.jpg"], [True, False], [0, 1]), strict=True))
    source = open_source(f"manifest:{write_table(folder, columns)}", None)
    assert [item.label for item in source.items] == [1, 0]
    columns = {"path": ["0.jpg", "1.jpg"], "labels": [["hat", "bag"], []]}
    source = open_source(write_table(folder, columns), None)
    assert [item.label for item in source.items] == [(0, 1), ()]


@pytest.mark.parametrize("place", ["", "images", "train"])
def test_ids_without_endings(tmp_path, place, write_images) -> None:
    write_images(tmp_path / place, ["17.jpg", "a.b.png", "18.JPG".lower()])
    text = "id,label\n17,hat\na.b,bag\n18.jpg,hat\n"
    source = open_source(write(tmp_path, text))
    prefix = f"{place}/" if place else ""
    expected = [f"{prefix}{name}" for name in ("17.jpg", "a.b.png", "18.jpg")]
    assert [item.name for item in source.items] == expected
    refused(write(tmp_path, "id,label\n17,hat\n19,bag\n"), "line 3 '19'")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "validation", "test")])
def test_metadata_beside_pictures_as_on_the_hub(tmp_path, write_images, name, parts) -> None:
    for part in parts:
        write_images(tmp_path / part, ["0.jpg", "sub/1.jpg"])
        rows = [{"file_name": "0.jpg", "label": "hat"}, {"file_name": "sub/1.jpg", "label": "bag"}]
        write_rows(tmp_path / part / name, rows)
    source = open_source(str(tmp_path))
    assert source.classes == ("bag", "hat")
    known = {"": None, "validation": "val"}
    assert [(item.name, item.label, item.split) for item in source.items] == [
        (f"{part}/{file}".lstrip("/"), label, known.get(part, part))
        for part in parts
        for file, label in (("0.jpg", 1), ("sub/1.jpg", 0))
    ]


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        file.write_text("\n".join(lines))


def test_metadata_whose_paths_begin_with_splits(tmp_path, write_images) -> None:
    names = [f"{split}/{i}.jpg" for split in ("train", "test") for i in range(2)]
    write_images(tmp_path, names)
    rows = [{"file_name": n, "label": "ab"[i % 2]} for i, n in enumerate(names)]
    write_rows(tmp_path / "metadata.jsonl", rows)
    assert [item.split for item in open_source(str(tmp_path)).items] == ["train"] * 2 + ["test"] * 2


def test_metadata_without_labels_leaves_class_folders_what_they_are(tmp_path, write_images) -> None:
    write_images(tmp_path, ["a/0.jpg", "b/1.jpg"])
    (tmp_path / "metadata.csv").write_text("file_name,camera\na/0.jpg,x\nb/1.jpg,y\n")
    assert open_source(str(tmp_path)).classes == ("a", "b")


@pytest.mark.parametrize(
    "line", ["[1]", "x", "{", '{"file_name": "0.jpg", "label": {"a": [1]}}', "{}"]
)
def test_json_lines_that_are_none(folder, line) -> None:
    (folder / "list.jsonl").write_text(f'{{"file_name": "1.jpg", "label": ["a", "b"]}}\n{line}\n')
    refused(str(folder / "list.jsonl"), "line 2" if "label" not in line else "label")


def test_columns_that_are_no_classes_are_passed_over(folder) -> None:
    rows = "0.jpg,31,1,0,x\n1.jpg,64,0,1,y\n"
    source = open_source(write(folder, f"path,age,hat,scarf,source\n{rows}"), None)
    assert source.classes == ("hat", "scarf")
    marked = write(folder, "# separator: ,\nid,hat,scarf\n0.jpg,1,1\n1.jpg,0,1\n")
    assert open_source(marked, None).classes == ("hat", "scarf")


def test_a_separator_that_a_spreadsheet_saved(folder) -> None:
    rows = 'path,label,x\n0.jpg,"hat, bag",\n1.jpg,bag,\n'
    source = open_source(write(folder, f"# separator: ,,\n{rows}"), None)
    assert source.classes == ("bag", "hat")
    (note,) = open_source(write(folder, f"# separator: |\n{rows}"), None).notes
    assert "no label has the separator '|'" in note


@pytest.mark.parametrize("form", ["['hat', 'bag']", '[""hat"", ""bag""]'])
def test_cells_that_are_lists(folder, form) -> None:
    text = f'path,label\n0.jpg,"{form}"\n1.jpg,"[]"\n'
    for line in ("", "# separator: ,\n"):
        source = open_source(write(folder, line + text), None)
        assert [item.label for item in source.items] == [(0, 1), ()]


def test_metadata_that_overrides_class_folders_is_told_of(tmp_path, write_images) -> None:
    write_images(tmp_path, ["cat/0.jpg", "dog/1.jpg"])
    rows = [{"file_name": "cat/0.jpg", "label": "x"}, {"file_name": "dog/1.jpg", "label": "y"}]
    write_rows(tmp_path / "metadata.csv", rows)
    source = open_source(str(tmp_path))
    assert source.classes == ("x", "y")
    assert "labels are those of metadata.csv, not of folders such as 'cat'" in source.notes[0]


def test_json_lists_of_numbers_are_labels_and_objects_are_none(folder) -> None:
    lines = '{"file_name": "0.jpg", "label": [0, 2]}\n{"file_name": "1.jpg", "label": 1}\n'
    (folder / "l.jsonl").write_text(lines)
    assert open_source(str(folder / "l.jsonl"), None).classes == ("0", "1", "2")
    (folder / "l.jsonl").write_text(lines + '{"file_name": "2.jpg", "label": {"a": 1}}\n')
    refused(str(folder / "l.jsonl"), "is no label")


@pytest.mark.parametrize("labels", [("A+", "B+", "A"), ("C++", "C", "C#")])
def test_marks_at_the_end_of_labels_join_nothing(folder, labels) -> None:
    rows = "".join(f"{i}.jpg,{label}\n" for i, label in enumerate(labels))
    assert open_source(write(folder, f"path,label\n{rows}")).notes == ()


def test_pictures_that_a_table_leaves_out_are_told_of(tmp_path, write_images) -> None:
    write_images(tmp_path, ["train/0.jpg", "train/1.jpg", "test/2.jpg"])
    rows = [{"file_name": f"{i}.jpg", "label": "ab"[i]} for i in range(2)]
    write_rows(tmp_path / "train" / "metadata.csv", rows)
    (note,) = open_source(str(tmp_path)).notes
    assert "1 pictures, such as test/2.jpg, are not in its table" in note


@pytest.mark.parametrize("linked", ["folder", "pictures"])
def test_pictures_that_are_reached_through_links_are_in_the_table(
    tmp_path, write_images, linked
) -> None:
    write_images(tmp_path / "store", ["0.png", "1.png"])
    place = tmp_path / "data" / "images"
    place.parent.mkdir()
    if linked == "folder":
        place.symlink_to(tmp_path / "store")
    else:
        place.mkdir()
        for name in ("0.png", "1.png"):
            (place / name).symlink_to(tmp_path / "store" / name)
    (place.parent / "labels.csv").write_text("path,label\nimages/0.png,a\nimages/1.png,b\n")
    assert not open_source(str(place.parent)).notes


def test_faults_of_metadata_are_told(tmp_path, write_images) -> None:
    write_images(tmp_path, ["0.jpg", "1.jpg"])
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.jpg,a\n1.jpg,b,c\n")
    refused(str(tmp_path), "line 3", "3 cells")


def test_ids_in_parquet_and_with_large_endings(tmp_path, write_images) -> None:
    write_images(tmp_path, ["7.JPG", "8.JPG"])
    columns = {"id": ["7", "8"], "label": ["a", "b"]}
    assert len(open_source(write_table(tmp_path, columns)).items) == 2

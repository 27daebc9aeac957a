"""Findings by hand: what each kind is, whom it names, and what is to be done."""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.data.audit.findings import KINDS, Finding, audit
from distill.data.audit.findings import advice as advice_on
from distill.data.audit.fingerprints import Fingerprints
from distill.data.sources import Item, Label, Source
from distill.errors import install_command

CLASSES = ("cat", "dog")


def advice(findings: list[dict[str, Any]], *arguments: Any, **options: Any) -> list[str]:
    return advice_on([Finding(**finding) for finding in findings], *arguments, **options)


class Set:
    """A data set that is only fingerprints: image by image, one row."""

    def __init__(self, classes: Sequence[str] = CLASSES, ignored: Sequence[str] = ()) -> None:
        self.rows: list[dict[str, Any]] = []
        self.classes, self.ignored = tuple(classes), tuple(ignored)

    def add(self, name: str, label: Label = 0, split: str = "train", **known: Any) -> "Set":
        self.rows.append({"name": name, "label": label, "split": split, **known})
        return self

    def audit(self) -> list[dict[str, Any]]:
        rows = self.rows
        items = tuple(Item(r["name"], r["label"], None, r.get("group")) for r in rows)

        def column(key: str, default: Any, kind: type = np.float32) -> Any:
            return np.array([row.get(key, default) for row in rows], kind)

        prints = Fingerprints(
            names=tuple(item.name for item in items),
            sha256=tuple(row.get("sha256", row["name"]) for row in rows),
            hashes=np.zeros((len(rows), 2), np.uint64),
            thumbs=np.zeros((len(rows), 16, 16, 3), np.uint8),
            width=column("width", 100, np.int32),
            height=column("height", 100, np.int32),
            brightness=column("brightness", 200),
            sharpness=column("sharpness", 1.0),
            readable=np.array(["reason" not in row for row in rows]),
            unreadable={row["name"]: row["reason"] for row in rows if "reason" in row},
        )
        source = Source("x", self.classes, items, lambda item: b"", "x", self.ignored)
        copies = [row.get("copies", row.get("sha256", row["name"])) for row in rows]
        found = audit(source, items, [row["split"] for row in rows], prints, copies)
        found = tuple(finding.to_json() for finding in found)
        assert all(set(f) == {"kind", "severity", "paths", "detail"} for f in found)
        assert all(f["kind"] in KINDS and f["paths"] == sorted(f["paths"]) for f in found)
        assert json.loads(json.dumps(found)) == list(found)
        return list(found)

    def kinds(self) -> list[tuple[str, list[str]]]:
        return [(finding["kind"], finding["paths"]) for finding in self.audit()]


def plain(count: int = 4, split: str = "train") -> Set:
    """As many images of each class, nothing odd about them."""
    data = Set()
    for number in range(count):
        data.add(f"c{number}", 0, split).add(f"d{number}", 1, split)
    return data


def test_unreadable_and_ignored_files_are_named() -> None:
    data = plain()
    data.ignored = ("notes.txt", "a.zip")
    data.add("y.jpg", reason="cut short").add("x.jpg", reason="no picture")
    found = data.audit()
    assert [(f["kind"], f["severity"], f["paths"], f["detail"]) for f in found[:2]] == [
        ("unreadable", "warning", ["x.jpg"], "no picture"),
        ("unreadable", "warning", ["y.jpg"], "cut short"),
    ]
    assert (found[2]["kind"], found[2]["paths"]) == ("ignored", ["a.zip", "notes.txt"])
    assert len(found) == 3


def test_pictures_that_nothing_decodes_are_one_counted_warning() -> None:
    """They were `info` like any note, and training went on without most of the photographs."""
    data = plain()
    data.ignored = ("notes.txt", *(f"{i:04}.HEIC" for i in range(1200)), "x.heif")
    warning, info = data.audit()
    assert (warning["kind"], warning["severity"], len(warning["paths"])) == (
        "ignored",
        "warning",
        1201,
    )
    assert warning["detail"] == (
        "1,200 .heic and 1 .heif files are left out, nothing here decodes them: x. "
        f"Fix: {install_command('heic')}."
    )
    assert (info["severity"], info["paths"]) == ("info", ["notes.txt"])


def test_unreadable_files_take_part_in_nothing_else() -> None:
    bad = {"reason": "no", "sha256": "s", "width": 0, "height": 0, "brightness": 0, "sharpness": 0}
    data = plain().add("x", 0, "train", **bad).add("y", 1, "test", **bad)
    assert [kind for kind, _ in data.kinds()] == ["unreadable", "unreadable"]
    assert Set().add("x", reason="no").kinds() == [("unreadable", ["x"])]


def test_near_duplicates_are_found_beside_equal_ones() -> None:
    data = plain().add("z", sha256="s", copies="g").add("y", sha256="s", copies="g")
    data.add("w", sha256="s", copies="g").add("x", copies="g")
    exact, near = data.audit()
    assert (exact["kind"], exact["severity"]) == ("exact_duplicate", "warning")
    assert exact["paths"] == ["w", "y", "z"]
    assert (near["kind"], near["paths"]) == ("near_duplicate", ["w", "x", "y", "z"])


def test_a_picture_under_two_labels() -> None:
    data = plain().add("a", 0, sha256="s").add("b", 1, sha256="s")
    data.add("e", 0, copies="g").add("f", 1, copies="g").add("g", 1, copies="g")
    conflicts = [f for f in data.audit() if f["kind"] == "label_conflict"]
    assert [(f["severity"], f["paths"]) for f in conflicts] == [
        ("error", ["a", "b"]),
        ("warning", ["e", "f", "g"]),
    ]
    assert "cat (a)" in conflicts[0]["detail"]
    assert "dog (b)" in conflicts[0]["detail"]


def test_images_without_a_label_contradict_nobody() -> None:
    data = plain().add("a", 0, sha256="s").add("b", -1, sha256="s")
    assert [kind for kind, _ in data.kinds()] == ["exact_duplicate"]


def test_several_labels_conflict_unless_they_are_the_same() -> None:
    data = Set(("nose", "mouth", "chin"))
    for number, label in enumerate([(0,), (1,), (2,)]):
        data.add(f"plain{number}", label)
    data.add("a", (0, 1), sha256="s").add("b", (0, 1), sha256="s")
    data.add("c", (), sha256="t").add("d", (2,), sha256="t")
    (conflict,) = [f for f in data.audit() if f["kind"] == "label_conflict"]
    assert conflict["paths"] == ["c", "d"]
    assert "no label (c)" in conflict["detail"]


def test_the_share_of_leaked_images() -> None:
    """Of 8 test images, one equals a training image and one nearly does: 25 %."""
    data = plain(4).add("t0", sha256="s").add("t1", copies="g")
    for number in range(6):
        data.add(f"e{number}", number % 2, "test")
    data.add("e6", 0, "test", sha256="s").add("e7", 0, "test", copies="g")
    (leak,) = [f for f in data.audit() if f["kind"] == "leak"]
    assert (leak["severity"], leak["paths"]) == ("error", ["e6", "e7"])
    for part in ("25.0 %", "2 of 8", "train", "1 equal", "1 near"):
        assert part in leak["detail"]


def test_every_pair_of_splits_may_leak() -> None:
    data = plain(4).add("t", copies="g").add("v", 0, "val", copies="g")
    data.add("e", 0, "test", copies="g").add("f", 1, "test")
    leaks = [f for f in data.audit() if f["kind"] == "leak"]
    assert [f["paths"] for f in leaks] == [["v"], ["e"], ["e"]]
    assert ["100.0 % of the val" in f["detail"] for f in leaks] == [True, False, False]
    assert ["50.0 % of the test" in f["detail"] for f in leaks] == [False, True, True]
    assert ["copy in val" in f["detail"] for f in leaks] == [False, False, True]


def test_given_groups_leak_but_are_no_copies() -> None:
    """Two photographs of a patient are not near-duplicates, and belong into one split even so.

    Copies in one split do not leak.
    """
    rest = plain().add("d", 1, "test")
    data = rest.add("t", 0, group="patient 7").add("e", 0, "test", group="patient 7")
    assert data.kinds() == [("leak", ["e"])]
    data = plain().add("e", 0, "test", copies="g").add("f", 1, "test", copies="g")
    assert ("near_duplicate", ["e", "f"]) in data.kinds()


def test_imbalance_begins_at_three_times() -> None:
    for fewest, odd in ((3, False), (2, True), (0, True)):
        data = Set()
        for number in range(8):
            data.add(f"c{number}", 0)
        for number in range(fewest):
            data.add(f"d{number}", 1)
        for number in range(20):  # other splits do not count
            data.add(f"e{number}", 1, "test")
        found = [f for f in data.audit() if f["kind"] == "imbalance"]
        assert [f"cat 8, dog {fewest}" in f["detail"] for f in found] == [True] * odd


def test_imbalance_of_labels_that_come_together() -> None:
    data = Set()
    for number in range(6):
        data.add(f"c{number}", (0, 1) if number < 2 else (0,))
    (found,) = data.audit()
    assert found["kind"] == "imbalance"
    assert "cat 6, dog 2" in found["detail"]


def test_imbalance_of_many_classes_names_the_ends() -> None:
    data = Set([f"k{number:02d}" for number in range(30)])
    for label in range(30):
        for number in range(label + 1):
            data.add(f"{label}-{number}", label)
    (found,) = data.audit()
    named = found["detail"].split(", ")
    assert named[0].endswith("k29 30")
    assert named[-1] == "k00 1"
    assert len(named) == 13


def test_odd_images() -> None:
    assert plain().add("e", 0, "val").add("f", 1, "val").audit() == []
    cases: list[tuple[dict[str, float], list[str]]] = [
        ({"width": 24, "height": 30}, ["tiny"]),  # a quarter of 100 is 25
        ({"width": 25, "height": 25}, []),
        ({"width": 801, "height": 900}, ["huge"]),
        ({"width": 800, "height": 800}, []),
        ({"width": 200, "height": 300_000}, ["huge", "odd_shape"]),  # 60 megapixels
        ({"brightness": 49}, ["dark"]),
        ({"brightness": 50}, []),
        ({"sharpness": 0.19}, ["blurred"]),  # a fifth of 1.0
        ({"sharpness": 0.21}, []),
        ({"sharpness": 0}, ["blank"]),
        ({"width": 100, "height": 301}, ["odd_shape"]),
        ({"width": 301, "height": 100}, ["odd_shape"]),
        ({"width": 100, "height": 300}, []),
    ]
    for known, kinds in cases:
        data = plain().add("y", 0, **known).add("x", 1, **known)
        assert data.kinds() == [(kind, ["x", "y"]) for kind in kinds], known


def test_small_images_are_tiny_among_small_ones_only_below_what_networks_take() -> None:
    data = Set()
    for number in range(8):
        data.add(f"{number}", number % 2, width=32, height=32)
    assert data.kinds() == []
    assert data.add("x", width=15, height=32).kinds() == [("tiny", ["x"])]


def test_the_order_of_images_changes_no_finding() -> None:
    data = plain().add("a", 0, sha256="s").add("b", 1, "test", sha256="s")
    data.add("e", 0, "val", copies="g", brightness=3).add("f", 1, copies="g", width=400)
    expected = data.audit()
    assert len(expected) >= 7
    data.rows.reverse()
    assert sorted(data.audit(), key=str) == sorted(expected, key=str)


def leaking() -> list[dict[str, Any]]:
    data = plain().add("t", 0, sha256="s").add("e", 0, "test", sha256="s")
    return data.audit()


def commands(lines: Sequence[str]) -> list[list[str]]:
    """The commands that advice ends in."""
    return [shlex.split(line[line.index("distill ") :]) for line in lines if "distill " in line]


def test_advice_on_leaks_is_commands_that_can_be_run() -> None:
    location = "my photos/'19"
    assert commands(advice(leaking(), location)) == [
        ["distill", "check", location, "--repair", "--out", "DIR"],
        ["distill", "check", location, "--split", "grouped", "--out", "DIR"],
        ["distill", "run", "DIR/manifest.parquet"],
    ]


def test_advice_says_that_labels_are_several() -> None:
    """Without it the commands that it names refused the data that it was given for."""
    assert all("data.task=multi" in c for c in commands(advice(leaking(), "x", task="multi")))


def test_advice_for_images_that_a_manifest_cannot_list() -> None:
    expected = ["distill", "run", "demo", "data.split=grouped"]
    assert commands(advice(leaking(), "demo", files=False)) == [expected]


def test_advice_on_imbalance_names_an_option_that_there_is() -> None:
    from distill.config import TrainConfig

    data = plain(1).add("c", 0).add("d", 0)
    ((*_, option),) = commands(advice(data.audit(), "x"))
    key, _, value = option.partition("=")
    assert key.startswith("student.train.")
    assert TrainConfig(**{key.rpartition(".")[2]: value}).class_weights == "balanced"


def test_a_class_without_images_needs_images_and_not_weights() -> None:
    """Class weights were advised, which training refuses for such a class."""
    data = Set().add("a", 0).add("b", 0)
    (finding,) = data.audit()
    assert (finding["kind"], finding["severity"]) == ("imbalance", "error")
    (line,) = advice([finding], "x")
    assert "weight" not in line


def test_there_is_advice_on_whatever_can_be_mended() -> None:
    findings = [{"kind": k, "severity": "info", "paths": ["p", "q"], "detail": ""} for k in KINDS]
    for finding in findings:
        nothing_to_do = ("ignored", "listing", "near_duplicate")  # of the last, `leak` is told
        assert bool(advice([finding], "x")) == (finding["kind"] not in nothing_to_do)
    assert advice([], "x") == []


def test_findings_of_a_source_without_classes_or_images() -> None:
    assert Set().audit() == []
    data = Set()
    data.rows = [{"name": "x", "label": -1, "split": "train"}]
    assert data.audit() == []


def test_nobody_is_told_to_delete_one_of_two_labels() -> None:
    """The copy that came first by name was kept, whichever of them was labelled right."""
    same = {"kind": "exact_duplicate", "severity": "warning", "paths": ["a", "b"], "detail": ""}
    conflict = {**same, "kind": "label_conflict"}
    assert not [line for line in advice([same, conflict], "x") if line.startswith("delete")]
    (line,) = advice([same], "x")
    assert line.startswith("delete")
    assert line.endswith("(1): b")


def test_a_folder_of_blank_pictures_is_called_that() -> None:
    """Of floats that turned black, `check` advised splits that trained on black."""
    data = Set()
    for number in range(9):
        blank = {"sharpness": 0, "brightness": 0, "copies": "black"} if number else {}
        data.add(f"{number}", number % 2, ("train", "test")[number % 3 == 0], **blank)
    findings = data.audit()
    (blank,) = [finding for finding in findings if finding["kind"] == "blank"]
    assert blank["severity"] == "error"
    assert "8 of 9 images show one colour only" in blank["detail"]
    (line,) = advice(findings, "photos")
    assert "hardly the pictures that you mean" in line


def test_a_class_that_a_split_lacks_is_told_of() -> None:
    data = plain().add("v", 0, "val").add("t", 0, "test").add("u", 1, "test")
    (told,) = data.audit()
    assert (told["kind"], told["severity"]) == ("listing", "warning")
    assert told["detail"] == "val has no image of dog: nothing is measured of it there"

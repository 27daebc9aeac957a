"""How what ships will do elsewhere: by distance, on `also`, and on splits by whole kinds."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.config import DataConfig
from distill.data.audit.listing import list_data
from distill.data.audit.shift import kept_units, units_of
from distill.data.sources import Item, Source, open_source
from distill.data.workspace import Workspace
from distill.pipeline.embedding import embedder
from distill.pipeline.experiment import Experiment
from distill.pipeline.export import export_student
from distill.pipeline.report import score_experiment
from distill.progress import Progress
from distill.report.lines import elsewhere_lines
from distill.report.results import ResultRow
from distill.report.warnings import far_from_training, worse_elsewhere
from distill.scoring import distance
from distill.scoring.distance import by_distance, distances, interval, least_loss
from distill.scoring.tasks import MULTI, SINGLE

QUIET = Progress(quiet=True)


def units(angles: np.ndarray) -> np.ndarray:
    """Unit vectors at these angles, in degrees."""
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_distances_are_those_of_the_three_nearest_of_other_groups():
    known, names = units(np.array([0.0, 10, 20, 30, 90])), np.array(["own", "b", "c", "d", "e"])
    found = distances(units(np.array([0.0])), np.array(["own"]), known, names)
    expected = np.mean([1 - np.cos(np.deg2rad(angle)) for angle in (10, 20, 30)])
    assert found == pytest.approx([expected], abs=1e-6)
    alone = distances(units(np.array([0.0])), np.array(["x"]), known, names)
    assert alone < found


def test_many_images_are_as_far_in_chunks_as_one_by_one():
    rng = np.random.default_rng(0)
    known, asked = units(rng.uniform(0, 360, 50)), units(rng.uniform(0, 360, 600))
    names, own = np.array([f"k{i}" for i in range(50)]), np.array([f"q{i}" for i in range(600)])
    whole = distances(asked, own, known, names)
    single = [distances(asked[i : i + 1], own[i : i + 1], known, names)[0] for i in range(600)]
    np.testing.assert_allclose(whole, single, atol=1e-6)


def quarters(errors: tuple[int, int, int, int], size: int = 200) -> list:
    """Quarters of `size` images each, of which so many are wrong."""
    shares = np.concatenate([np.arange(size) >= count for count in errors])
    labels = np.zeros(len(shares), dtype=np.int64)
    probs = np.where(shares[:, None], [[0.9, 0.1]], [[0.2, 0.8]])
    groups = np.arange(len(shares)).astype(str)
    away = np.arange(len(shares)) / len(shares)
    return by_distance(away, shares, groups, probs, labels, ("a", "b"))


def test_quarters_are_ordered_by_distance_with_their_intervals():
    found = quarters((0, 2, 10, 40))
    assert [round(q.accuracy, 1) for q in found] == [100.0, 99.0, 95.0, 80.0]
    assert [q.n for q in found] == [200] * 4
    assert (found[0].low, found[0].high) == pytest.approx((98.17, 100.0), abs=0.01)
    assert (found[3].low, found[3].high) == pytest.approx((73.78, 85.31), abs=0.01)
    assert found[3].ece > found[0].ece
    assert least_loss(found[0], found[3]) == pytest.approx(20 - np.hypot(1.83, 5.31), abs=0.01)


def test_copies_count_once():
    """A quarter of 200 images that are ten pictures is as uncertain as ten pictures."""
    away, shares = np.arange(800) / 800, np.arange(800) % 20 > 0
    labels, probs = np.zeros(800, dtype=np.int64), np.tile([[0.9, 0.1]], (800, 1))
    groups = (np.arange(800) // 20).astype(str)
    found = by_distance(away, shares, groups, probs, labels, ("a", "b"))
    assert found[0].high - found[0].low > 30
    few = slice(0, 780)  # 39 pictures
    args = (away[few], shares[few], groups[few], probs[few], labels[few])
    assert by_distance(*args, ("a", "b")) == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_intervals_are_those_of_scipy(share):
    from scipy.stats import binomtest

    expected = binomtest(int(share * 40), 40).proportion_ci(method="exact")
    assert interval(share, 40) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("errors", "warns"),
    [((0, 2, 10, 40), True), ((2, 6, 5, 2), False), ((10, 10, 10, 14), False)],
)
def test_a_steep_fall_is_warned_of_and_no_other(errors, warns):
    rows = [quarter._asdict() for quarter in quarters(errors)]
    distance = {"file": "student.int8.onnx", "quarters": rows}
    found = list(far_from_training(distance, SINGLE))
    assert [caution.kind for caution in found] == ["far_from_training"] * warns
    assert not warns or "80.0 % (" in found[0].what
    of_labels = list(far_from_training(distance, MULTI))
    assert not warns or "% of the labels of the quarter" in of_labels[0].what


def test_a_file_that_is_worse_elsewhere_is_warned_of():
    rows = [ResultRow(name="s.onnx", kind="onnx", test={"top1": 96.0})]
    place = {"location": "there", "n": 1200, "rows": [{"name": "s.onnx", "test": {"top1": 65.0}}]}
    (found,) = worse_elsewhere(rows, [place], "s.onnx", "top1")
    assert "65.00 % top1 on the 1,200 images of there, 96.00 on the test split" in found.what
    place["rows"][0]["test"]["top1"] = 93.0
    assert not list(worse_elsewhere(rows, [place], "s.onnx", "top1"))


def paint(place: Path, colour: tuple[int, int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (40, 40, 3))
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(place)


def listed(folder: Path, cache: Path, seed: int = 0):
    source = open_source(str(folder), "single")
    work = Workspace(cache, 1, QUIET)
    config = DataConfig(size=32, split="shifted")
    return list_data(source, config, seed, work, embed=embedder("cpu", 1, QUIET))


def test_folders_below_a_class_are_held_out_whole(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for place in range(5):
            for number in range(4):
                file = tmp_path / "images" / name / f"camera {place}" / f"{number}.png"
                paint(file, (100 * label, 40 * place, 0), 100 * place + number)
    listing = listed(tmp_path / "images", tmp_path / "cache")
    places = {
        (i.name.rsplit("/", 1)[0], s) for i, s in zip(listing.items, listing.splits, strict=True)
    }
    assert len(places) == 10
    assert Counter(split for _, split in places) == {"train": 6, "val": 2, "test": 2}


def test_kinds_of_images_are_held_out_whole_where_no_name_tells_them(tmp_path):
    """Whatever splits a source gives: they are made anew, and the same each time."""
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (190, 190, 0), (0, 190, 190)]
    for split in ("train", "val", "test"):
        for label, name in enumerate(("dark", "bright")):
            for number in range(20):
                colour = tuple(c // 3 + 120 * label for c in colours[number % 5])
                seed = number + 100 * label + 1000 * len(split)
                paint(tmp_path / "images" / split / name / f"{number}.png", colour, seed)
    listing = listed(tmp_path / "images", tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("units-*.json")
    named = json.loads(kept.read_text())["units"]
    places = set(zip(named, listing.splits, strict=True))
    assert len(places) == len(set(named)) == 24
    assert {split for _, split in places} == {"train", "val", "test"}
    assert {unit.split(":")[0] for unit, split in places if split == "test"} == {"dark", "bright"}
    given = [item.name.split("/")[0] for item in listing.items]
    assert list(listing.splits) != given
    assert listed(tmp_path / "images", tmp_path / "cache").splits == listing.splits


def test_units_hold_whole_groups_and_labels_may_be_many():
    items = tuple(Item(f"{n}.png", (n % 2,)) for n in range(40))
    source = Source("made up", ("a", "b"), items, lambda item: b"", "", task="multi")
    groups = [f"group {n // 4}" for n in range(40)]
    vectors = units(np.repeat(np.linspace(0, 180, 10), 4))
    found = units_of(source, items, groups, 0, lambda: vectors)
    assert len(set(found)) == 3
    assert all(len(set(found[n : n + 4])) == 1 for n in range(0, 40, 4))


def test_folders_of_splits_are_no_units(tmp_path):
    """`training`, `validation` and `testing` were three kinds of images, and held out as such."""
    words = {"training": "train", "validation": "val", "testing": "test"}
    names = [(f"{word}/{n}.png", split) for word, split in words.items() for n in range(8)]
    items = tuple(Item(name, (0,), split) for name, split in names)
    source = Source("made up", ("a",), items, lambda item: b"", "", task="multi")
    vectors = units(np.linspace(0, 180, 24))
    found = units_of(source, items, [item.name for item in items], 0, lambda: vectors)
    assert all(unit.startswith(": cluster") for unit in found)


def test_corrected_labels_make_units_anew(tmp_path):
    def kept(label: int) -> list[str]:
        items = tuple(Item(f"{n}.png", label if n == 0 else n % 2) for n in range(20))
        source = Source("made up", ("cat", "dog"), items, lambda item: b"", "")
        names = [item.name for item in items]
        vectors = units(np.linspace(0, 180, 20))
        return kept_units(source, items, names, names, 0, lambda *_: vectors, tmp_path)

    assert kept(0)[0].startswith("cat:")
    assert kept(1)[0].startswith("dog:")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, make_experiment) -> Experiment:
    experiment = make_experiment(tmp_path_factory.mktemp("elsewhere"), "single")
    export_student(experiment)
    return experiment


def own_pictures(experiment: Experiment, folder: Path) -> Path:
    """The test pictures of an experiment, as files."""
    test, classes = experiment.data.test, experiment.data.classes
    for pixels, label, name in zip(test.pixels, test.labels, test.names, strict=True):
        file = folder / classes[label] / f"{Path(name).stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return folder


def test_every_model_is_scored_on_pictures_from_elsewhere(shipped, tmp_path, monkeypatch):
    """Of the data's own test pictures the scores are those of the table."""
    monkeypatch.setattr(distance, "FEWEST", 2)
    folder = own_pictures(shipped, tmp_path / "elsewhere")
    recipe = shipped.recipe.model_copy(update={"also": (str(folder),)})
    asked = replace(shipped, recipe=recipe)
    asked.__dict__["data"] = shipped.data
    results = score_experiment(asked)
    (place,) = results.elsewhere
    assert (place["location"], place["n"]) == (str(folder), len(shipped.data.test.labels))
    table = {row.name: row.test for row in results.rows if row.name != "random_forest"}
    there = {row["name"]: row["test"] for row in place["rows"]}
    assert set(there) == set(table)
    for name, scores in table.items():
        assert there[name]["top1"] == pytest.approx(scores["top1"])
        assert there[name]["nll"] == pytest.approx(scores["nll"], abs=1e-4)
    beyond = results.distance["quarters"][2]["distance"]
    assert results.distance["quarters"][3]["distance"] > beyond
    assert 20 < place["farther_percent"] < 30  # as of the test split
    assert score_experiment(shipped).elsewhere == ()
    for name in shipped.data.classes[1:]:
        shutil.rmtree(folder / name)
    (alone,) = score_experiment(asked).elsewhere  # of one class
    assert alone["n"] == int((shipped.data.test.labels == 0).sum())
    lines = list(elsewhere_lines(results))
    assert len(lines) == 2
    assert lines[1].startswith(f"{folder} ({place['n']} images, ")

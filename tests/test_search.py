"""The search for a student within limits: what there is to choose from, and who is chosen."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from distill.cli.search import shipped_line
from distill.config import ModelConfig, Recipe
from distill.data.audit import fingerprints, listing
from distill.data.decode import InputSpec
from distill.models.classifier import Classifier, Contract, build_classifier
from distill.pipeline.experiment import Experiment
from distill.progress import Progress
from distill.recipe import check_table, load_recipe
from distill.runtime import latency, threads
from distill.search.find import Search, SearchReport, ShippedFile
from distill.search.space import Limits, ShapeRow, candidates, image_sizes, judge, promising_of
from distill.search.timing import count_macs, time_candidates, time_files

RECIPE = """
random_forest.trees = 0
haar = "off"
[data]
size = 32
[bench]
batch_sizes = [1]
seconds = 0.02
rounds = 1
[teacher]
name = "teacher"
model = {name = "baseline_cnn", options = {width = [8, 8], hidden = 8}}
train = {epochs = 1, batch_size = 16}
[student]
model = {name = "compact", options = {dropout = 0.0, branches = false}}
strategy.name = "vanilla"
train = {epochs = 2, batch_size = 16, warmup_epochs = 1}
[search]
sizes = [32]
widths = [4, 8]
depths = [[1, 1, 1, 1]]
stems = [4]
brief_epochs = 1
precision = "fp32"
[export]
targets = []
"""


def row(name: str, macs: int, latency_ms: float, size_bytes: int) -> ShapeRow:
    costs = {"macs": macs, "latency_ms": latency_ms, "size_bytes": size_bytes}
    costs |= {"params": size_bytes, "images_per_s": 1000 / latency_ms}
    return ShapeRow(name=name, kind=name.rstrip("0123456789"), main_score="top1", **costs)


def test_a_row_is_judged_by_the_limits_by_the_others_and_by_what_it_computes():
    rows = [
        row("large", 90, 0.1, 900),
        row("slow", 80, 0.9, 100),
        row("wide", 60, 0.5, 300),
        row("deep", 50, 0.2, 300),
        row("beaten", 40, 0.3, 200),  # deep is faster, computes more, and has more parameters
        row("fast", 20, 0.1, 200),
        row("small", 30, 0.1, 100),  # no faster than fast, but computes more
    ]
    judged = judge(rows, Limits(max_latency_ms=0.5, max_size_bytes=300), most=2)
    assert [one.name for one in promising_of(judged)] == ["wide", "deep"]
    assert [one.name for one in judged] == [one.name for one in rows]
    assert {one.name: one.outcome for one in judged} == {
        "large": "too large",
        "slow": "too slow",
        "wide": "promising",
        "deep": "promising",
        "beaten": "dominated",
        "small": "not promising",
        "fast": "not promising",
    }


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({"max_latency_ms": 0.25}, ["large", "deep"]), ({"max_size_bytes": 150}, ["slow"])],
)
def test_one_limit_is_enough(limits, expected):
    rows = [row("large", 90, 0.1, 900), row("slow", 80, 0.9, 100), row("deep", 50, 0.05, 300)]
    assert [one.name for one in promising_of(judge(rows, Limits(**limits), most=4))] == expected


def test_of_a_kind_the_widest_is_promising():
    rows = [row("deep8", 10, 0.1, 10), row("deep16", 40, 0.3, 40), row("deep32", 90, 0.9, 90)]
    rows += [row("flat8", 20, 0.2, 20), row("flat16", 30, 0.25, 30)]
    promising = promising_of(judge(rows, Limits(max_latency_ms=0.5), most=3))
    assert [one.name for one in promising] == ["deep16", "flat16"]


def test_equals_do_not_dominate_each_other():
    rows = [row("one", 10, 0.1, 100), row("other", 10, 0.1, 100)]
    assert len(promising_of(judge(rows, Limits(max_latency_ms=1.0), most=4))) == 2


@pytest.mark.parametrize("score", ["top1", "map"])
def test_a_row_names_its_scores_in_json_and_only_its_costs_are_read_again(score):
    costs = row("deep8", 10, 0.1, 100).to_json()
    assert list(costs) == [
        *("name", "kind", "params", "macs", "size_bytes", "latency_ms", "images_per_s"),
    ]
    read = ShapeRow.costs(costs, score)
    done = read.model_copy(update={"outcome": "winner", "brief_val": 50.0, "val": 75.0})
    scores = {"outcome": "winner", f"brief_val_{score}": 50.0, f"val_{score}": 75.0}
    assert list(done.to_json().items()) == [*costs.items(), *scores.items()]
    assert ShapeRow.costs(done.to_json(), score) == read


def test_all_combinations_are_candidates_with_the_rest_as_in_the_recipe():
    model = {"name": "compact", "options": {"dropout": 0.3}}
    recipe = check_table(Recipe, {"students": [{"name": "student", "model": model}]}, "test")
    shapes = list(candidates(recipe))
    space = recipe.search
    count = len(space.widths) * len(space.depths) * len(space.stems) * len(space.kernels)
    assert len({shape.name for shape in shapes}) == len(shapes) == 2 * count
    assert image_sizes(recipe) == (128, 96)
    assert shapes[0].options == {
        "dropout": 0.3,
        "width": [8, 16, 32, 64],
        "depth": [1, 1, 1, 1],
        "stride": [2, 2, 2, 2],
        "kernel": [3],
        "head_width": 0,
    }
    assert [shape.size for shape in shapes] == [128] * count + [96] * count
    for shape in (shapes[0], shapes[-1]):
        config = ModelConfig(name="compact", options=shape.options)
        build_classifier(config, ("a", "b"), InputSpec(height=shape.size, width=shape.size))


def test_multiplications_are_counted_by_hand():
    """On 8 px: 3 to 4 channels, 3x3, stride 2: 27 * 4 * 16 = 1,728; linear 4 to 2: 8."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    spec = InputSpec(height=8, width=8)
    classifier = Classifier(network, Contract(input_spec=spec, input_size=8, names=("a", "b")))
    assert count_macs(classifier) == 1728 + 8
    grouped = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Flatten())
    classifier = Classifier(grouped, Contract(input_spec=spec, input_size=8, names=("a", "b")))
    assert count_macs(classifier) == 9 * 6 * 64


def test_a_busy_moment_spoils_no_figure(monkeypatch, tiny_onnx, tmp_path):
    """Files are timed in turns; the second turn is five times as slow, and does not count."""
    now, loaded = [0], []

    class Session:
        def __init__(self, file: Path, threads: int) -> None:
            loaded.append(file)
            self.ms = 1 if file.name == "a.onnx" else 2

        def run(self, outputs, feeds):
            assert feeds["image"].shape == (1, 24, 32, 3)
            now[0] += self.ms * 1_000_000 * (5 if len(loaded) in (3, 4) else 1)

    files = [shutil.copy(tiny_onnx, tmp_path / name) for name in ("a.onnx", "b.onnx")]
    monkeypatch.setattr(latency, "open_session", Session)
    monkeypatch.setattr(threads, "perf_counter_ns", lambda: now[0])
    assert time_files(files, 1, Progress(quiet=True)) == [1.0, 2.0]
    assert [file.name[0] for file in loaded[:4]] == ["b", "a", "a", "b"]  # first in turn


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("search") / "recipe.toml"
    file.write_text(RECIPE)
    return file


def test_a_search_ends_in_an_experiment_and_repeats_nothing(recipe, distill, tmp_path):
    torch.set_num_threads(1)
    command = ("search", recipe, "--data", "demo:60", "--out", tmp_path, "--max-size-kb", 1000)
    status, out, err = distill(*command, "--device", "cpu", "--json")
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    rows = {one["name"]: one for one in found["candidates"]}
    assert len(rows) == 4
    name = found["winner"]["name"]
    assert rows[name]["outcome"] == "winner"
    assert rows[name]["val_top1"] >= 0.0
    tried = [one for one in rows.values() if one["outcome"] in ("winner", "promising")]
    assert rows[name]["brief_val_top1"] == max(one["brief_val_top1"] for one in tried)
    assert json.loads((tmp_path / "search.json").read_text())["candidates"] == found["candidates"]
    folder = tmp_path / "32px"
    assert found["experiment"] == str(folder)
    results = json.loads((folder / "results.json").read_text())
    assert [one["name"] for one in results["rows"][:3]] == ["teacher", name, "student.fp32.onnx"]
    shipped = found["shipped"]["student.fp32.onnx"]
    assert shipped["size_bytes"] == (folder / "export" / "student.fp32.onnx").stat().st_size
    # What is timed with random weights is what is shipped, but for weights, names and scores.
    assert shipped["size_bytes"] == pytest.approx(rows[name]["size_bytes"], abs=3000)
    weights = folder / "students" / name / "best.safetensors"
    before = weights.stat().st_mtime_ns
    status, out, err = distill(*command, "--device", "cpu", "--json")
    assert status == 0, err
    assert weights.stat().st_mtime_ns == before
    again = {one["name"]: one for one in json.loads(out.splitlines()[-1])["candidates"]}
    assert all(again[key]["latency_ms"] == rows[key]["latency_ms"] for key in rows)


def test_a_shape_is_weighed_with_the_classes_that_it_will_have(recipe):
    """Each has 16 weights of the last layer, and 16 more for its map: limits were for 2 classes."""
    loaded = load_recipe(recipe)
    shapes = list(candidates(loaded))[:1]
    few, many = (
        time_candidates(loaded, shapes, tuple(f"c{n}" for n in range(count)), Progress(quiet=True))
        for count in (2, 200)
    )
    width = shapes[0].options["width"][-1]
    assert many[0].size_bytes - few[0].size_bytes > 198 * 4 * width
    assert many[0].params - few[0].params == 198 * (width + 1)


@pytest.mark.parametrize(
    ("files", "limits", "expected"),
    [
        ({"student.int8.onnx": (90_000, 0.1)}, {"max_size_bytes": 100_000}, "90 kB, 0.100 ms"),
        ({"student.int8.onnx": (110_000, 0.1)}, {"max_size_bytes": 100_000}, "too large after all"),
        ({"student.fp32.onnx": (90_000, 0.2)}, {"max_latency_ms": 0.1}, "no int8 file passed"),
    ],
)
def test_the_file_that_ships_is_held_against_the_limits(files, limits, expected):
    report = SearchReport(
        identity={"search": {"precision": "int8"}},
        candidates=(),
        env={},
        limits=Limits(**limits),
        shipped={n: ShippedFile(size_bytes=b, latency_ms=ms) for n, (b, ms) in files.items()},
    )
    line = shipped_line(report)
    assert expected in line
    assert line.startswith("warning: ") == ("all" in expected or "passed" in expected)


def test_images_are_compared_once_for_all_sizes(recipe, image_folder, tmp_path, monkeypatch):
    """They were looked at and compared anew for every size of images."""
    looks, compare = [], listing.copy_groups
    monkeypatch.setattr(listing, "copy_groups", lambda *a: looks.append(a) or compare(*a))
    read = fingerprints.read_image
    monkeypatch.setattr(fingerprints, "read_image", lambda *a: looks.append(a) or read(*a))
    loaded, quiet = load_recipe(recipe), Progress(quiet=True)
    base = Experiment(loaded, str(image_folder), tmp_path, torch.device("cpu"), progress=quiet)
    search = Search(base, Limits(max_size_bytes=1000))
    splits = [search.experiment(size, loaded.students).data.splits for size in (24, 32)]
    assert len(looks) == 1 + 16  # one comparison, one look at each of 16 images
    assert splits[0]["test"].names == splits[1]["test"].names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "no limit"),
        (["--max-latency-ms", "-1"], "max_latency_ms"),
        (["--max-size-kb", "1"], "none of 4 shapes is within the limits"),
        (["--max-size-kb", "99", "student.model.name=baseline_cnn"], "compact_masks.toml"),
        (["--max-size-kb", "99", "search.kernels=[[2]]"], "even"),
        (["--max-size-kb", "99", "search.widths=[]"], "search.widths"),
    ],
)
def test_what_cannot_be_searched_is_one_line(arguments, expected, recipe, distill, tmp_path):
    arguments = [
        *arguments,
        *(["student.model.options={}"] if "baseline" in str(arguments) else []),
    ]
    out = tmp_path / "out"
    status, _, err = distill("search", recipe, *arguments, "--data", "demo:60", "--out", out)
    assert status == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert expected in err.splitlines()[-1]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(recipe, distill, tmp_path):
    out = tmp_path / "out"
    command = ("search", recipe, "--data", "demo:60", "--out", out, "--max-size-kb", 99)
    status, said, _ = distill(*command, "--dry-run")
    assert status == 0
    assert "4 shapes at 32 px" in said
    assert not out.exists()

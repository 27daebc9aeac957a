"""The training benchmark: that its engines are comparable, and its arithmetic; never its speed."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from distill.benchmarks import training, training_engines, training_run
from distill.benchmarks.training import bench_training, choose_engines, ratios, summarise
from distill.benchmarks.training_engines import ENGINES, Engine, Workload, timm_task, train_with
from distill.benchmarks.training_run import TrainingBench, load_data, make_workload, measure
from distill.cli.bench import student_model
from distill.config import DataConfig, ModelConfig, StrategyConfig, TrainConfig
from distill.data.prepare import ImageData
from distill.data.views.draws import Draws
from distill.errors import RunStopped, UserError
from distill.progress import Progress
from distill.strategies import Lesson, make_strategy

QUIET = Progress(quiet=True)
CPU = torch.device("cpu")
STUDENT = ModelConfig(
    name="compact", options={"width": [8, 8], "depth": [1, 1], "head_width": 0, "dropout": 0.0}
)
# Momentum and rate are constant and small, so that rounding stays as small as it is.
TRAIN = TrainConfig(
    epochs=1, batch_size=8, optimizer="sgd", lr=0.01, schedule="constant", warmup_epochs=0.0
)
KEYS = {"engine", "seconds_per_epoch", "images_per_s", "peak_memory_bytes", "total_seconds"}
CACHE_KEYS = {"cache_seconds", "cache_seconds_per_epoch"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models as small as these are no work for two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings(**changes: Any) -> TrainingBench:
    options = {
        "location": "demo:60",
        "data": DataConfig(size=32),
        "teacher": "timm/resnet10t",
        "student": STUDENT,
        "train": TRAIN,
        "rounds": 1,
    }
    return TrainingBench(**(options | changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return load_data(settings(), tmp_path_factory.mktemp("images"), 1, QUIET)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "kd_lib" and importlib.util.find_spec("KD_Lib") is None:
        pytest.skip("KD_Lib is not installed: make kd-lib")
    name: Engine = request.param
    return name


def trained(engine: Engine, data: ImageData, folder: Path, **changes: Any) -> dict[str, Tensor]:
    workload = make_workload(settings(**changes), data, engine, 0, folder / engine)
    train_with(engine, workload)
    return {key: value.cpu() for key, value in workload.student.state_dict().items()}


def seen_by_the_student(engine: Engine, workload: Workload) -> tuple[list[Tensor], Any]:
    """Images of each step, and the weights at the first one."""
    images: list[Tensor] = []
    first: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():  # not while validating
            if not images:
                first.update({key: value.clone() for key, value in module.state_dict().items()})
            images.append(args[0].clone())

    workload.student.register_forward_pre_hook(note)
    train_with(engine, workload)
    return images, first


def test_every_engine_starts_from_the_same_weights_and_sees_the_same_views(
    engine: Engine, data: ImageData, tmp_path: Path
) -> None:
    """Two epochs of five batches; a cache of two views shows the views of a live teacher."""
    config = settings(train=TRAIN.model_copy(update={"epochs": 2}))
    workload = make_workload(config, data, engine, 0, tmp_path / "one")
    reference = make_workload(config, data, "textbook", 0, tmp_path / "two")
    expected, start = seen_by_the_student("textbook", reference)
    images, first = seen_by_the_student(engine, workload)
    assert len(images) == len(expected) == 2 * (42 // 8)
    assert all(torch.equal(a, b) for a, b in zip(images, expected, strict=True))
    assert first.keys() == start.keys()
    assert all(torch.equal(first[key], start[key]) for key in first)


def test_rounds_differ_in_weights_and_views_but_not_in_the_teacher(
    data: ImageData, tmp_path: Path
) -> None:
    one, two = (make_workload(settings(), data, "live", r, tmp_path) for r in (0, 1))
    assert not torch.equal(*(next(w.student.parameters()) for w in (one, two)))
    assert torch.equal(*(next(w.teacher.parameters()) for w in (one, two)))
    ids = np.arange(2)
    assert not torch.equal(*(w.job.images.view(ids, 0, CPU) for w in (one, two)))


def test_live_cached_textbook_and_timm_learn_the_same(data: ImageData, tmp_path: Path) -> None:
    """One formula in four loops: equal weights and BatchNorm statistics after an epoch.

    The cache keeps logits in half precision: 11 bits, so relative errors of 2^-12.
    """
    start = make_workload(settings(), data, "live", 0, tmp_path).student.state_dict()
    book = trained("textbook", data, tmp_path)
    assert not torch.allclose(book["network.classifier.weight"], start["network.classifier.weight"])
    for name, tolerance in (("live", 1e-4), ("timm", 1e-4), ("cached", 1e-3)):
        weights = trained(name, data, tmp_path)  # type: ignore[arg-type]
        assert weights.keys() == book.keys()
        for key, value in weights.items():
            torch.testing.assert_close(value, book[key], atol=tolerance, rtol=tolerance)


def test_the_student_alone_learns_something_else(data: ImageData, tmp_path: Path) -> None:
    alone = trained("student_only", data, tmp_path)["network.classifier.weight"]
    taught = trained("live", data, tmp_path)["network.classifier.weight"]
    assert (alone - taught).abs().max() > 1e-3


class Fixed(nn.Module):
    """A model that gives the logits it was made with, as timm's task wants models."""

    num_classes, in_chans = 5, 3
    pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # noqa: RUF012

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize(("temperature", "kd_weight"), [(1.0, 0.5), (4.0, 0.9), (2.0, 0.0)])
def test_timms_loss_is_ours(temperature: float, kd_weight: float) -> None:
    torch.manual_seed(0)
    student, teacher = (3.0 * torch.randn(7, 5, dtype=torch.float64) for _ in range(2))
    labels, options = torch.arange(7) % 5, {"temperature": temperature, "kd_weight": kd_weight}
    strategy = make_strategy(StrategyConfig(name="vanilla", **options))
    lesson = Lesson(student, teacher[None], labels, None, Draws(0, np.arange(7), 0))
    ours = strategy(lesson)["loss"]
    task = timm_task(Fixed(student), Fixed(teacher), options, CPU)
    torch.testing.assert_close(task(torch.zeros(7, 3, 2, 2), labels)["loss"], ours)


def test_the_plain_loop_keeps_the_epoch_that_was_best_on_validation(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, seen = iter([50.0, 90.0, 90.0, 70.0]), []

    def scripted(student: nn.Module, job: Any, device: Any, split: str) -> float:
        assert split == "val"
        seen.append(student.state_dict()["network.classifier.weight"].clone())
        return next(scores)

    monkeypatch.setattr(training_engines, "top1", scripted)
    weights = trained("textbook", data, tmp_path, train=TRAIN.model_copy(update={"epochs": 4}))
    assert torch.equal(weights["network.classifier.weight"], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_a_loss_that_is_not_finite_stops_the_plain_loop(data: ImageData, tmp_path: Path) -> None:
    workload = make_workload(settings(), data, "textbook", 0, tmp_path)
    nn.init.constant_(workload.student.network.classifier.bias, float("nan"))  # type: ignore
    with pytest.raises(RunStopped, match="not finite in epoch 1"):
        train_with("textbook", workload)


def test_a_run_measures_what_it_did(engine: Engine, data: ImageData, tmp_path: Path) -> None:
    config = settings(train=TRAIN.model_copy(update={"epochs": 2}), timed_epochs=1)
    found = measure(config, data, engine, 0, tmp_path / "run")
    asks = engine not in ("cached", "student_only")
    assert len(found["epoch_seconds"]) == (1 if asks else 2)
    assert ("top1" in found) is not asks
    assert ("cache_seconds" in found) is (engine == "cached")
    assert found["images_per_epoch"] == 40  # 42 in batches of 8
    assert found["peak_memory_bytes"] > 10e6  # Python and torch alone take more
    spent = sum(found["epoch_seconds"]) + found.get("cache_seconds", 0.0)
    assert 0.0 < spent < found["total_seconds"] + 0.002  # fit rounds to ms


def test_fewer_images_keep_their_labels(data: ImageData) -> None:
    few = training_run.limit_images(data, 10, seed=3)
    again = training_run.limit_images(data, 10, seed=3)
    assert few.train.names == again.train.names
    assert len(set(few.train.names)) == len(few.train.digests) == 10
    assert few.sha256 != data.sha256
    assert few.val is data.val
    for index, name in enumerate(few.train.names):
        place = data.train.names.index(name)
        assert few.train.labels[index] == data.train.labels[place]
        np.testing.assert_array_equal(few.train.take([index]), data.train.take([place]))


def make_run(engine: str, round_: int, epochs: list[float], total: float, **more: Any) -> Any:
    fixed = {"images_per_epoch": 120, "peak_memory_bytes": 1000 + round_, "top1": 90.0 + round_}
    one = {"engine": engine, "round": round_, "epoch_seconds": epochs, "total_seconds": total}
    return one | fixed | more


def test_a_row_by_hand() -> None:
    """Epochs 2, 4, 3 in three rounds (medians of three); accuracies 90, 91, 92."""
    runs = [
        make_run("cached", 0, [2.0, 9.0, 1.0], 14.0, cache_seconds=3.0),
        make_run("cached", 1, [4.0, 4.0, 5.0], 20.0, cache_seconds=6.0),
        make_run("cached", 2, [3.0, 3.0, 3.0], 11.0, cache_seconds=1.5),
    ]
    assert summarise(runs, epochs=3) == {
        "engine": "cached",
        "seconds_per_epoch": 3.0,
        "seconds_per_epoch_min": 2.0,
        "seconds_per_epoch_max": 4.0,
        "images_per_s": 40.0,
        "peak_memory_bytes": 1001,
        "cache_seconds": 3.0,
        "cache_seconds_per_epoch": 1.0,
        "total_seconds": 14.0,
        "top1": 91.0,
        "top1_std": 1.0,
    }


def test_a_short_run_is_extrapolated_and_says_so() -> None:
    """Epochs of 2 and 3 s, and 1 s besides in 2 epochs: 30 * (2.5 + 0.5) = 90 s."""
    one = make_run("timm", 0, [2.0, 3.0], 6.0)
    del one["top1"]
    row = summarise([one], epochs=30)
    assert row.keys() == KEYS | {"extrapolated"}
    assert row["extrapolated"] is True
    assert row["total_seconds"] == pytest.approx(90.0)


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was twice as slow for both, which changes nothing."""
    runs = [
        make_run("kd_lib", 0, [8.0], 16.0),
        make_run("cached", 0, [2.0], 4.0),
        make_run("student_only", 0, [1.0], 2.0),
        make_run("student_only", 1, [2.0], 4.0),
        make_run("kd_lib", 1, [16.0], 32.0),
        make_run("cached", 1, [4.0], 8.0),
    ]
    assert ratios(runs, epochs=1) == {
        "epoch_over_student_only": {"kd_lib": 8.0, "cached": 2.0, "student_only": 1.0},
        "total_over_student_only": {"kd_lib": 8.0, "cached": 2.0, "student_only": 1.0},
        "total_over_cached": {"kd_lib": 4.0},
    }
    assert ratios(runs[:1], epochs=1)["epoch_over_student_only"] == {}


def test_rounds_are_interleaved_and_shuffled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_process(engine: Engine, round_: int, scratch: Path) -> Any:
        return make_run(engine, round_, [1.0], 1.0)

    monkeypatch.setattr(training, "run_process", run_process)
    runs = training.run_rounds(settings(rounds=4), ENGINES, tmp_path, QUIET)
    assert [one["round"] for one in runs] == [r for r in range(4) for _ in ENGINES]
    orders = [tuple(one["engine"] for one in runs[6 * r : 6 * r + 6]) for r in range(4)]
    assert all(sorted(order) == sorted(ENGINES) for order in orders)
    assert len(set(orders)) > 1


def test_what_a_failed_run_said_is_passed_on(tmp_path: Path) -> None:
    config = settings(location="demo:7").model_dump(mode="json")
    (tmp_path / "settings.json").write_text(json.dumps(config))
    with pytest.raises(RunStopped, match=r"engine timm failed.*demo:7"):
        training.run_process("timm", 0, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_a_missing_kd_lib_is_left_out_unless_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("KD_Lib.KD", "KD_Lib.KD.text"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "KD_Lib", None)
    assert choose_engines("", "cpu", Progress()) == list(ENGINES[1:])
    assert "make kd-lib" in capsys.readouterr().err
    with pytest.raises(UserError, match="make kd-lib"):
        choose_engines("kd_lib,cached", "cpu", QUIET)


def test_engines_are_chosen_by_name() -> None:
    assert choose_engines("student_only,timm", "cpu", QUIET) == ["timm", "student_only"]
    with pytest.raises(UserError, match="unknown engine 'tim'"):
        choose_engines("tim,cached", "cpu", QUIET)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"teacher": "timm/resnet5o"}, "resnet5o"),
        ({"student": ModelConfig(name="compakt")}, "compakt"),
        ({"num_images": 43}, "--images"),
        ({"location": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_mistakes_show_before_anything_is_trained(
    changes: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "run_rounds", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserError, match=where):
        bench_training(settings(**changes), ["live"], 1, tmp_path / "out", QUIET)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_teacher_of_other_classes_is_refused(
    data: ImageData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teacher = make_workload(settings(), data, "live", 0, tmp_path).teacher
    opened = SimpleNamespace(load=lambda: teacher)
    monkeypatch.setattr(training_run, "open_run", lambda folder: opened)
    config = settings(teacher=str(tmp_path))
    assert training_run.load_teacher(config, data) is teacher
    other = replace(data, classes=("a", "b", "c"))
    with pytest.raises(UserError, match="are not the data's"):
        training_run.load_teacher(config, other)


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}")
    with pytest.raises(UserError, match="choose another"):
        bench_training(settings(), ["live"], 1, tmp_path, QUIET)
    assert (tmp_path / "training.json").read_text() == "{}"


def test_the_command_writes_rows_with_exactly_the_promised_keys(
    distill: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that train
    arguments = ["--size", 32, "--images", 24, "--epochs", 2, "--batch-size", 8, "--rounds", 1]
    arguments += ["--teacher", "timm/resnet10t", "--device", "cpu"]
    chosen = ["cached", "student_only"]
    arguments += ["--engines", ",".join(chosen), "--out", tmp_path, "--json"]
    status, out, _ = distill("bench", "training", "demo:60", *arguments)
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    assert {file.name for file in tmp_path.iterdir()} == {"training.json", "training.png"}
    assert json.loads((tmp_path / "training.json").read_text()) == found
    assert Image.open(tmp_path / "training.png").size[0] > 300
    assert {"rows", "ratios", "settings", "images", "runs", "env"} == found.keys()
    assert found["images"]["train"] == 24
    assert len(found["runs"]) == len(chosen)
    rows = {row["engine"]: row for row in found["rows"]}
    assert list(rows) == chosen
    assert rows["cached"].keys() == KEYS | CACHE_KEYS | {"top1"}
    assert rows["student_only"].keys() == KEYS | {"top1"}
    assert set(found["ratios"]["epoch_over_student_only"]) == set(chosen)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "nope.onnx"],
        ["bench", "bench.seconds=1", "nope.onnx"],
        ["bench", "nope.onnx", "bench.rounds=1"],
        ["bench", "inference", "nope.onnx"],
    ],
)
def test_bench_without_a_command_still_times_models(arguments: list[str], distill: Any) -> None:
    status, _, err = distill(*arguments)
    assert status == 2
    assert err == "error: no such file: nope.onnx. Fix: name an .onnx file or an experiment.\n"


def test_help_of_bench_names_both_commands(distill: Any) -> None:
    status, out, _ = distill("bench", "--help")
    assert status == 0
    assert "inference" in out
    assert "training" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "0"], "epochs"),
        (["--precision", "fp16"], "fp16"),
        (["--engines", "keras"], "keras"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], named: str, distill: Any) -> None:
    status, _, err = distill("bench", "training", "demo:60", *arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert named in err


def test_a_student_may_come_from_a_recipe(repository, tmp_path):
    """Its weights are found from wherever the recipe lies."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[[students]]\nmodel = { name = "squeeze", pretrained = "own.safetensors" }\n'
    )
    found = student_model(str(recipe))
    assert found["name"] == "squeeze"
    assert found["pretrained"] == str(tmp_path / "own.safetensors")
    assert student_model("compact") == {"name": "compact"}
    with pytest.raises(UserError, match="no students"):
        student_model(str(repository / "teachers" / "squeezenet1_1.toml"))

"""The speed suite as a whole: its rows by hand, its rounds with fake workers, and a real file."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.benchmarks import scenarios, speed
from distill.benchmarks.limits import Limits
from distill.benchmarks.scenarios import WallClock
from distill.benchmarks.speed import (
    bench_speed,
    make_task,
    run_limits,
    run_process,
    run_worker,
    typical_limits,
)
from distill.benchmarks.speed_records import SpeedRow
from distill.benchmarks.speed_rows import base_row, by_series, mark_best, summarise
from distill.benchmarks.speed_worker import (
    Failed,
    NoOutcome,
    SeriesOutcome,
    Unavailable,
    WorkerReply,
    measure,
    read_reply,
)
from distill.benchmarks.subjects import (
    INPUTS,
    Model,
    Subject,
    decode_query,
    make_pixels,
    model_query,
    onnx_model,
    open_models,
    pair,
)
from distill.config import BenchConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.progress import Progress

SPEC = InputSpec(height=24, width=32, resize="squash")
MS = 1_000_000
QUIET = Progress(quiet=True)
MODELS = [Model(name, Path(name), "onnx", SPEC, "fp32", 123) for name in ("a", "b", "c")]


def configure(**changes: Any) -> BenchConfig:
    options: dict[str, Any] = {"batch_sizes": (1,), "seconds": 0.02, "rounds": 2, "threads": 2}
    return BenchConfig(**(options | {"engines": ("onnxruntime",)} | changes))


def png(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(file, "PNG")
    return file.getvalue()


def outcome(
    latencies_ms: list[int],
    images_per_s: float,
    scenario: str = "single_stream",
    batch_size: int = 1,
) -> SeriesOutcome:
    latencies_ns = [ms * MS for ms in latencies_ms]
    asked = {"scenario": scenario, "clock": "model", "batch_size": batch_size}
    return SeriesOutcome(**asked, latencies_ns=latencies_ns, images_per_s=images_per_s)


def summary(rounds: list[SeriesOutcome], **changes: Any) -> dict[str, Any]:
    return summarise(rounds, configure(**changes)).to_json()


def test_a_row_by_hand() -> None:
    """400 queries of 1 to 400 ms in two rounds of 50 and 48 images/s.

    Ranks of p50: 200; its interval by the normal approximation 200 +- 1.96 * 10, so 180 to 220.
    p90 is rank 360, p99 rank 396. The median of the rounds is 49, their range 2.
    """
    rounds = [outcome(list(range(1, 201)), 50.0), outcome(list(range(201, 401)), 48.0)]
    row = summary(rounds)
    assert row["n"] == 400
    assert (row["latency_p50_ms"], row["latency_p90_ms"], row["latency_p99_ms"]) == (200, 360, 396)
    assert row["latency_p50_ci_ms"] == pytest.approx((180, 221), abs=1)
    assert row["images_per_s"] == 49
    assert row["variation_percent"] == pytest.approx(100 * 2 / 49)
    assert "warnings" not in row
    assert not {"streams", "latency_bound_ms", "best"} & row.keys()


def test_a_row_says_what_not_to_trust() -> None:
    """20 queries, rounds of 50 and 40: 10 of 45 are 22 %; p90 takes 36, p99 368."""
    rounds = [outcome([20] * 10, 50.0), outcome([25] * 10, 40.0)]
    row = summary(rounds)
    assert row["latency_p50_ms"] == 20
    assert not {"latency_p90_ms", "latency_p99_ms", "latency_p99_ci_ms"} & row.keys()
    assert [one.split()[:2] for one in row["warnings"]] == [
        ["rounds", "differ"],
        ["20", "queries"],
        ["20", "queries"],
    ]
    batches = [outcome([20] * 10, 50.0, "offline", 8), outcome([25] * 10, 40.0, "offline", 8)]
    batch = summary(batches)
    assert len(batch["warnings"]) == 1  # of batches the rate counts, not the tail
    assert "variation_percent" not in summary(batches[:1])


def test_rows_say_what_was_asked() -> None:
    asked = {"streams": 3, "latency_bound_ms": 7.5}
    streams, server, batch = (
        summary([outcome([1] * 10, 5.0, scenario, size)], **asked)
        for scenario, size in [("multi_stream", 1), ("server", 1), ("offline", 8)]
    )
    assert streams["streams"] == 3
    assert server["latency_bound_ms"] == 7.5
    assert (batch["scenario"], batch["clock"], batch["batch_size"]) == ("offline", "model", 8)


def test_the_best_batch_of_each_model() -> None:
    common = {"engine": "x", "device": "cpu", "threads": 1, "load_ms": 1.0, "first_ms": 1.0}
    common |= {"clock": "model", "batch_size": 1, "n": 10}
    rows = [
        SpeedRow(**common, name=name, scenario=scenario, images_per_s=rate)
        for name, scenario, rate in [
            ("a", "offline", 5.0),
            ("a", "offline", 7.0),
            ("b", "offline", 2.0),
            ("a", "single_stream", 9.0),
        ]
    ]
    marked = mark_best(rows)
    assert [row.to_json().get("best", False) for row in marked] == [False, True, True, False]
    assert [row.name for row in marked] == ["a", "a", "b", "a"]
    assert not any(row.best for row in rows)  # those that were given are as they were


class Workers:
    """Stands in for the processes: notes who was asked when, and answers what a test says."""

    def __init__(self, **answers: WorkerReply | Unavailable | Failed) -> None:
        self.answers, self.asked = answers, list[str]()
        self.tasks: list[dict[str, Any]] = []

    def __call__(
        self,
        module: str,
        read: object,
        arguments: list[str],
        threads: int,
        stdin: str = "",
        seconds: float = 0,
    ) -> Limits | WorkerReply | Unavailable | Failed:
        if module == "limits":
            self.asked.append("limits")
            return Limits(flop_per_s={"fp32": 1e9}, bytes_per_s=1e9)
        task = json.loads(stdin)
        self.tasks.append(task)
        self.asked.append(task["path"])
        good = WorkerReply(load_ms=3.0, first_ms=2.0, series=[outcome([10] * 10, 100.0)])
        return self.answers.get(task["path"], good)


def bench_with(workers: Workers, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    monkeypatch.setattr(speed, "run_process", workers)
    monkeypatch.setattr(speed, "count_work", lambda path: None)
    return bench_speed(MODELS, configure(**changes), QUIET).to_json()


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model and the limits once per round, in an order that changes."""
    workers = Workers()
    found = bench_with(workers, monkeypatch, rounds=5, seconds=1.0)
    rounds = [workers.asked[start : start + 4] for start in range(0, 20, 4)]
    assert len(workers.asked) == 20
    assert all(sorted(order) == ["a", "b", "c", "limits"] for order in rounds)
    assert len(set(map(tuple, rounds))) > 1
    assert {task["seconds"] for task in workers.tasks} == {0.2}
    assert {task["seed"] for task in workers.tasks} == set(range(5))  # other arrivals each round
    assert {task["threads"] for task in workers.tasks} == {2}
    assert [(row["name"], row["n"], row["load_ms"]) for row in found["rows"]] == [
        (name, 50, 3.0) for name in "abc"
    ]
    assert found["left_out"] == []
    assert found["limits"] == {"flop_per_s": {"fp32": 1e9}, "bytes_per_s": 1e9}
    assert found["config"]["rounds"] == 5


def test_what_fails_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(b=Failed(failed="ValueError: bad"))
    found = bench_with(workers, monkeypatch, rounds=3)
    assert [row["name"] for row in found["rows"]] == ["a", "c"]
    assert found["left_out"] == ["b on onnxruntime: ValueError: bad"]
    assert workers.asked.count("b") == 1


def test_an_engine_that_is_not_there_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Unavailable(unavailable="openvino is not installed")
    workers = Workers(a=absent, b=absent, c=absent)
    with pytest.raises(UserError, match="openvino is not installed"):
        bench_with(workers, monkeypatch, engines=("openvino",), rounds=3)
    assert sum(name != "limits" for name in workers.asked) == 1


def test_a_scenario_without_an_outcome_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    series = [
        NoOutcome(scenario="server", clock="model", batch_size=1, reason="no rate"),
        outcome([10] * 10, 100.0, "offline", 8),
    ]
    workers = Workers(a=WorkerReply(load_ms=1.0, first_ms=1.0, series=series))
    found = bench_with(workers, monkeypatch)
    assert [row["scenario"] for row in found["rows"] if row["name"] == "a"] == ["offline"]
    assert found["left_out"] == ["a on onnxruntime, server model 1: no rate"]


def test_limits_that_cannot_be_measured_are_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    good, failed = Limits(flop_per_s={"fp32": 4.0}, bytes_per_s=2.0), Failed(failed="no memory")
    assert typical_limits([good, failed]) == good
    assert typical_limits([failed]) is None
    monkeypatch.setattr(speed, "run_limits", lambda config: failed)
    assert bench_with(Workers(), monkeypatch)["limits"] == {}


def test_a_reply_is_read_as_it_was_printed() -> None:
    asked = {"scenario": "server", "clock": "decode", "batch_size": 1}
    series = [asked | {"latencies_ns": [5, 7], "images_per_s": 1.5}, asked | {"reason": "no rate"}]
    timed = {"load_ms": 1.0, "first_ms": 2.0, "series": series}
    kinds = {Failed: {"failed": "x"}, Unavailable: {"unavailable": "x"}, WorkerReply: timed}
    for kind, printed in kinds.items():
        reply = read_reply(json.dumps(printed))
        assert isinstance(reply, kind)
        assert reply.to_json() == printed
    with pytest.raises(ValueError, match="latency"):
        read_reply('{"latency": 3}')


def test_an_engines_precision_wins_over_the_files() -> None:
    task = make_task(Subject(MODELS[0], "onnxruntime"), configure(), None)
    reply = WorkerReply(load_ms=1.0, first_ms=5.0, series=())
    slow = WorkerReply(load_ms=3.0, first_ms=6.0, series=())
    row = base_row(Subject(MODELS[0], "x"), [reply, slow, slow], task).to_json()
    assert (row["precision"], row["size_bytes"], row["load_ms"]) == ("fp32", 123, 3.0)
    assert "val" not in row
    half = reply.model_copy(update={"precision": "fp16"})
    assert base_row(Subject(MODELS[0], "x"), [half], task).precision == "fp16"


def test_models_meet_the_engines_that_take_them() -> None:
    folder = Model("run", Path("run"), "run", SPEC)
    subjects, left_out = pair([MODELS[0], folder], ["onnxruntime", "onnxruntime_bound", "torch"])
    assert left_out == []
    assert [str(one) for one in subjects] == [
        "a on onnxruntime",
        "a on onnxruntime_bound",
        "run on torch",
    ]
    subjects, left_out = pair([MODELS[0], folder], ["onnxruntime"])
    assert len(subjects) == 1
    assert left_out == ["run: a run directory is nothing for onnxruntime"]


def test_pixels_are_the_same_every_time() -> None:
    first, second = make_pixels(5, 24, 32), make_pixels(5, 24, 32)
    assert first.shape == (5, 24, 32, 3)
    assert np.array_equal(first, second)
    assert first.std() > 30  # not a flat picture


def test_every_call_sees_another_input() -> None:
    query = model_query(lambda pixels: pixels, SPEC, 4, offset=3)
    seen = [next(query.inputs) for _ in range(INPUTS + 1)]
    assert {one.shape for one in seen} == {(4, 24, 32, 3)}
    assert len({one.tobytes() for one in seen}) == INPUTS
    assert np.array_equal(seen[0], seen[-1])
    assert np.array_equal(seen[0], make_pixels(7, 24, 32)[3:])
    assert all(one.dtype == np.uint8 and one.flags.c_contiguous for one in seen)


def test_decoding_is_part_of_its_own_clock() -> None:
    """Encoded pictures of two colours become the model's pixels, and its answer a label."""
    given: list[Any] = []

    def run(pixels: Any) -> Any:
        given.append(pixels)
        return pixels.mean(axis=(1, 2))

    query = decode_query(run, SPEC, [png(), png((10, 20, 250))], 3)
    assert np.array_equal(query.call(next(query.inputs)), [0, 2, 0])  # red, blue, red
    assert given[0].shape == (3, 24, 32, 3)
    assert (given[0][1] == (10, 20, 250)).all()


def test_a_shipped_file_says_what_it_is(tiny_onnx: Path) -> None:
    model = onnx_model(tiny_onnx)
    assert (model.name, model.precision, model.format) == ("tiny.fp32", "fp32", "onnx")
    assert model.size_bytes == tiny_onnx.stat().st_size
    assert model.val == ("top1", 87.5)
    assert onnx_model(tiny_onnx, "mine").name == "mine"


def test_files_of_one_name_are_told_apart(tiny_onnx: Path, tmp_path: Path) -> None:
    other = tmp_path / tiny_onnx.name
    other.write_bytes(tiny_onnx.read_bytes())
    assert [one.name for one in open_models([tiny_onnx, other])] == [str(tiny_onnx), str(other)]


def test_a_worker_asks_in_every_scenario(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "BOUNDS", 0)  # a bound that is sure to be kept takes long
    (tmp_path / "0").write_bytes(png())
    asked = ("single_stream", "multi_stream", "server", "offline")
    config = configure(scenarios=asked, batch_sizes=(1, 3), streams=2, latency_bound_ms=9e3)
    subject = Subject(onnx_model(tiny_onnx), "onnxruntime")
    found = measure(make_task(subject, config, str(tmp_path)), WallClock())
    assert found.load_ms > 0 < found.first_ms
    each = [("single_stream", 1), ("multi_stream", 1), ("server", 1), ("offline", 1)]
    assert list(by_series([found])) == [
        (scenario, clock, size)
        for clock in ("model", "decode")
        for scenario, size in [*each, ("offline", 3)]
    ]
    assert all(len(one.latencies_ns) >= 10 for one in found.series)
    assert all(one.images_per_s > 0 for one in found.series)


def test_an_engine_of_one_call_at_a_time_has_no_streams(tiny_onnx: Path) -> None:
    config = configure(scenarios=("multi_stream",))
    subject = Subject(onnx_model(tiny_onnx), "onnxruntime_bound")
    found = measure(make_task(subject, config, None), WallClock())
    assert ["reason" in one.to_json() for one in found.series] == [True]


def test_a_process_of_its_own_from_file_to_rows(tiny_onnx: Path) -> None:
    config = configure(scenarios=("single_stream", "offline"), batch_sizes=(1, 3), threads=1)
    found = bench_speed([onnx_model(tiny_onnx)], config, QUIET, [png()]).to_json()
    assert [(row["clock"], row["scenario"], row["batch_size"]) for row in found["rows"]] == [
        (clock, scenario, size)
        for clock in ("model", "decode")
        for scenario, size in [("single_stream", 1), ("offline", 1), ("offline", 3)]
    ]
    for row in found["rows"]:
        assert (row["name"], row["engine"], row["threads"]) == ("tiny.fp32", "onnxruntime", 1)
        assert row["n"] >= 20
        assert row["images_per_s"] > 0
        assert ("flop_per_s" in row) == (row["clock"] == "model")
    assert found["limits"]["bytes_per_s"] > 0
    assert json.loads(json.dumps(found, allow_nan=False))["rows"]


def test_a_process_that_breaks_says_why(tiny_onnx: Path) -> None:
    broken = make_task(Subject(onnx_model(tiny_onnx), "onnxruntime"), configure(), None)
    reply = run_worker(broken.model_copy(update={"path": "nowhere.onnx"}))
    assert "nowhere.onnx" in reply.failed
    assert "status 1" in run_process("speed_worker", read_reply, [], 1, "no json").failed


def test_a_worker_that_hangs_is_given_up(monkeypatch):
    """A bench waited for it for ever."""
    monkeypatch.setattr(speed, "START_S", 0.2)
    reply = run_limits(configure(threads=1))
    assert "did not end within" in reply.failed
    assert typical_limits([reply]) is None


def test_onnx_files_are_timed_without_torch_and_onnx(tiny_onnx: Path) -> None:
    """`bench` of a shipped file works where only the runtime is installed; it counts no work."""
    script = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; "
        "sys.modules['matplotlib'] = None; "
        "sys.argv = ['distill', 'bench', *sys.argv[1:]]; from distill.cli import main; main()"
    )
    options = ("bench.seconds=0.02", "bench.rounds=1", "bench.scenarios=single_stream", "--json")
    command = [sys.executable, "-c", script, str(tiny_onnx), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["engine"] for row in rows] == ["onnxruntime"]
    assert "flop_per_s" not in rows[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bench.engines=fast"], "'fast'"),
        (["bench.engines=torch"], "an ONNX file is nothing for torch"),
        (["bench.scenarios=single"], "single_stream"),
        (["--device", "tpu"], "cuda"),
        (["bench.batch_sizes=[1, 'x']"], "batch_sizes"),
        (["bench.batch_sizes=[0]"], "batch_sizes"),
        (["bench.seconds=0"], "seconds"),
        (["bench.latency_bound_ms=-1"], "latency_bound_ms"),
        (["--out", "speed.txt"], "--out"),
        (["--data", "nowhere"], "nowhere"),
        (["bench.engines=tensorrt", "--device", "cpu"], "it is for cuda"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], named: str, tiny_onnx: Path, distill: Any
) -> None:
    status, _, err = distill("bench", tiny_onnx, *arguments)
    assert status == 2
    assert [line for line in err.splitlines() if line.startswith("error: ") and named in line]
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["nope.onnx", "text.onnx", "folder"])
def test_a_model_that_is_none(name: str, tmp_path: Path, distill: Any) -> None:
    (tmp_path / "text.onnx").write_text("not onnx")
    (tmp_path / "folder").mkdir()
    status, _, err = distill("bench", tmp_path / name)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert name in err


def test_the_command_writes_json_and_plots(tiny_onnx: Path, tmp_path: Path, distill: Any) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "speed.json"
    options = ("bench.seconds=0.02", "bench.rounds=1", "bench.batch_sizes=[1,2]", "--out", out)
    status, text, _ = distill("bench", tiny_onnx, *options, "bench.scenarios=single_stream,offline")
    assert status == 0
    assert {file.name for file in out.parent.iterdir()} == {
        "speed.json",
        "speed.batch.png",
        "speed.accuracy.png",
    }
    assert "tiny.fp32" in text
    assert [row["batch_size"] for row in json.loads(out.read_text())["rows"]] == [1, 1, 2]


def test_ctrl_c_leaves_nothing(
    tiny_onnx: Path, tmp_path: Path, distill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(speed.subprocess, "run", interrupted)
    status, out, _ = distill("bench", tiny_onnx, "--out", tmp_path / "speed.json")
    assert status == 130
    assert out == ""
    assert list(tmp_path.iterdir()) == []

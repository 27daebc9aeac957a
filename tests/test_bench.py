"""Inference speed: its arithmetic under a clock that only fake models move, and one real file."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from distill.benchmarks import speed
from distill.benchmarks.speed import (
    Series,
    Subject,
    make_pixels,
    measure,
    onnx_subject,
    percentile,
    render,
    resolve_threads,
    summarise,
)
from distill.config import BenchConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.progress import Progress

SPEC = InputSpec(height=24, width=32, resize="squash")
MS = 1_000_000
QUIET = Progress(quiet=True)


class Bench:
    """A clock, and models that do nothing but move it and note what they were called with."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[tuple[str, NDArray[np.uint8]]] = []

    def subject(self, name: str, latency_ms: Callable[[int], float], threads: int = 2) -> Subject:
        """A model whose n-th call, from 0, takes `latency_ms(n)`."""
        numbers = count()

        def run(pixels: NDArray[np.uint8]) -> None:
            self.calls.append((name, pixels))
            self.now += round(latency_ms(next(numbers)) * MS)

        return Subject(name, "onnxruntime", run, SPEC, threads)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench()
    monkeypatch.setattr(speed, "perf_counter_ns", lambda: made.now)
    return made


def configure(**changes: Any) -> BenchConfig:
    """By default 0.75 s in 3 rounds: 0.25 s a round, and 0.15 s a window of the warm-up."""
    options: dict[str, Any] = {"batch_sizes": (1,), "seconds": 0.75, "rounds": 3, "threads": 2}
    return BenchConfig(**(options | changes))


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


def make_series(rounds_ms: list[list[int]], batch_size: int = 1) -> Series:
    subject = Subject("one", "torch", lambda pixels: None, SPEC, threads=5)
    rounds = [[ms * MS for ms in latencies] for latencies in rounds_ms]
    return Series(subject, "model", batch_size, subject.run, iter(()), rounds=rounds)


@pytest.mark.parametrize(
    ("num_values", "percent", "expected"),
    [
        (1, 50, 1),
        (4, 50, 2),  # rank 4 * 0.5 = 2
        (5, 50, 3),  # 2.5, rounded up
        (9, 90, None),
        (10, 90, 9),
        (99, 99, None),
        (100, 99, 99),
        (101, 99, 100),  # 99.99, rounded up
        (1000, 99, 990),
        (0, 50, None),
    ],
)
def test_percentiles_are_nearest_ranks(num_values: int, percent: int, expected: int | None) -> None:
    assert percentile(range(1, num_values + 1), percent) == expected


def test_a_row_by_hand() -> None:
    """100 calls of 1 to 100 ms in 3 rounds, at batch 8.

    Medians of the rounds: of 1..20 it is 10.5, of 21..60 40.5, of 61..100 80.5; their median is
    40.5, their range 70.
    """
    rounds = [list(range(1, 21)), list(range(61, 101)), list(range(21, 61))]
    assert summarise(make_series(rounds, batch_size=8)) == {
        "name": "one",
        "engine": "torch",
        "clock": "model",
        "batch_size": 8,
        "threads": 5,
        "n": 100,
        "latency_p50_ms": 50,
        "latency_p90_ms": 90,
        "latency_p99_ms": 99,
        "images_per_s": pytest.approx(8 / 0.0405),
        "variation_percent": pytest.approx(100 * 70 / 40.5),
    }


def test_what_too_few_calls_cannot_say_is_absent() -> None:
    row = summarise(make_series([list(range(1, 100))]))
    assert row["n"] == 99
    assert {"latency_p50_ms", "latency_p90_ms"} <= row.keys()
    assert not {"latency_p99_ms", "variation_percent"} & row.keys()  # 99 calls, one round


def test_warm_up_is_not_counted(bench: Bench) -> None:
    """5 calls of 500 ms, then 25 ms: the slow ones must not reach any statistic.

    Windows of 10 s / 5 = 2 s: 4 slow calls; the fifth and 60 fast ones, of median 25; 80 fast ones.
    The last two agree.
    """
    subject = bench.subject("a", lambda n: 500 if n < 5 else 25)
    row = measure([subject], configure(seconds=10, rounds=4), QUIET)[0]
    # 10 s / 4 rounds = 2.5 s = 100 calls of 25 ms a round
    assert row["n"] == 400
    assert row["latency_p50_ms"] == row["latency_p90_ms"] == row["latency_p99_ms"] == 25
    assert row["images_per_s"] == 40
    assert row["variation_percent"] == 0
    assert len(bench.calls) == 4 + 61 + 80 + 4 * 101


def test_warm_up_gives_up_on_a_model_that_never_settles(bench: Bench) -> None:
    """Each call takes twice as long as the last, so no two windows agree."""
    measure([bench.subject("a", lambda n: 2**n)], configure(), QUIET)
    # Windows of 150 ms: 1 + 2 + ... + 128 = 255, then 3 calls, 256 + 512 + 1024; past 750 ms.
    # A call now takes longer than a round's 250 ms, so each of the 3 rounds is a single one.
    assert len(bench.calls) == 8 + 3 + 3


def test_rounds_are_interleaved(bench: Bench) -> None:
    """Every model once per round, its calls together; the order changes between rounds."""
    subjects = [bench.subject(name, lambda n: 25) for name in "abc"]
    measure(subjects, configure(rounds=5, seconds=1.25), QUIET)
    names = [name for name, _ in bench.calls]
    # Warm-up: 2 windows of 1.25 s / 5 = 10 calls of 25 ms. Rounds: 1 uncounted call and 10.
    assert names[:60] == ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    slots = [names[start : start + 11] for start in range(60, len(names), 11)]
    assert len(slots) == 5 * 3
    assert all(len(slot) == 11 and len(set(slot)) == 1 for slot in slots)
    rounds = ["".join(slot[0] for slot in slots[i : i + 3]) for i in range(0, 15, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 1


def test_the_first_call_of_a_slot_is_not_counted(bench: Bench) -> None:
    """It pays for the caches that another model left behind."""
    # 12 calls of warm-up (2 windows of 150 ms), then 11 per round, the first of them 70 ms.
    subject = bench.subject("a", lambda n: 70 if n >= 12 and (n - 12) % 11 == 0 else 25)
    row = measure([subject], configure(), QUIET)[0]
    assert (row["n"], row["latency_p90_ms"]) == (30, 25)
    assert len(bench.calls) == 12 + 3 * 11


@pytest.mark.parametrize(
    ("latency_ms", "calls_per_round"),
    [(1, 250), (25, 10), (100, 10), (250, 1), (4000, 1)],  # of 250 ms a round
)
def test_a_round_is_ten_calls_unless_one_call_is_longer(
    bench: Bench, latency_ms: int, calls_per_round: int
) -> None:
    subject = bench.subject("a", lambda n: latency_ms)
    row = measure([subject], configure(), QUIET)[0]
    assert row["n"] == 3 * calls_per_round
    assert row["latency_p50_ms"] == latency_ms


def test_rows_cover_every_model_and_batch_size(bench: Bench) -> None:
    subjects = [bench.subject("a", lambda n: 25), bench.subject("b", lambda n: 50)]
    rows = measure(subjects, configure(batch_sizes=(1, 8)), QUIET)
    assert [(row["name"], row["batch_size"], row["images_per_s"]) for row in rows] == [
        ("a", 1, 40),
        ("b", 1, 20),
        ("a", 8, 320),
        ("b", 8, 160),
    ]
    assert {row["clock"] for row in rows} == {"model"}
    assert {pixels.shape for _, pixels in bench.calls} == {(1, 24, 32, 3), (8, 24, 32, 3)}


def test_no_two_calls_in_a_row_see_the_same_input(bench: Bench) -> None:
    config = configure(batch_sizes=(1, 4))
    measure([bench.subject("a", lambda n: 25)], config, QUIET)
    inputs = [pixels for _, pixels in bench.calls]
    assert not any(np.array_equal(a, b) for a, b in pairwise(inputs))
    assert all(one.dtype == np.uint8 and one.flags.c_contiguous for one in inputs)
    assert len({one.tobytes() for one in inputs if len(one) == 1}) == speed.INPUTS


def test_pixels_are_the_same_every_time() -> None:
    first, second = make_pixels(5, 24, 32), make_pixels(5, 24, 32)
    assert first.shape == (5, 24, 32, 3)
    assert np.array_equal(first, second)
    assert first.std() > 30  # not a flat picture


def test_decoding_is_part_of_its_own_clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 ms of decoding and 25 ms of model are 32 ms on the clock `decode`, at batch 1."""
    decode = speed.to_pixels

    def slow_decode(source: Any, spec: InputSpec) -> NDArray[np.uint8]:
        bench.now += 7 * MS
        pixels: NDArray[np.uint8] = decode(source, spec)
        return pixels

    monkeypatch.setattr(speed, "to_pixels", slow_decode)
    subject = bench.subject("a", lambda n: 25)
    rows = measure([subject], configure(batch_sizes=(4,)), QUIET, [png()])
    found = [(row["clock"], row["batch_size"], row["latency_p50_ms"]) for row in rows]
    assert found == [("model", 4, 25), ("decode", 1, 32)]
    decoded = [pixels for _, pixels in bench.calls if len(pixels) == 1]
    assert all(pixels.shape == (1, 24, 32, 3) for pixels in decoded)
    assert (decoded[0] == (200, 30, 30)).all()


def test_threads_are_stated_as_a_number(bench: Bench) -> None:
    assert resolve_threads(3) == 3
    cores = resolve_threads(0)
    assert cores >= 1
    subject = bench.subject("a", lambda n: 25, threads=cores)
    rows = measure([subject], configure(threads=0), QUIET)
    assert [row["threads"] for row in rows] == [cores]


def test_one_table_has_one_number_of_threads(bench: Bench) -> None:
    subjects = [
        bench.subject(name, lambda n: 25, threads) for name, threads in (("a", 2), ("b", 1))
    ]
    with pytest.raises(AssertionError, match="one number"):
        measure(subjects, configure(), QUIET)


def test_a_table_leaves_empty_what_was_not_measured() -> None:
    rows = [summarise(make_series([[2] * 10, [4] * 10])), summarise(make_series([[1000]], 64))]
    rows[0]["name"] = "a[b].onnx"  # brackets are no markup
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(rows))
    lines = [line.split() for line in console.export_text().splitlines()]
    row = next(line for line in lines if "a[b].onnx" in line)
    # p50 2, p90 4, no p99; 1 / 3 ms; range 2 of 3; 20 calls
    assert [cell for cell in row if cell != "│"] == [
        *("a[b].onnx", "torch", "model", "1", "2.00", "4.00", "333.33", "66.67", "20"),
    ]


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """Mean colour as the probabilities of three classes."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=kind.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["mean"], ["prob"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", kind.UINT8, ["batch", 24, 32, 3])],
        [helper.make_tensor_value_info("prob", kind.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", kind.INT64, [2], [1, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {
        "names": ["red", "green", "blue"],
        "task": "single",
        "input_spec": SPEC.model_dump(),
        "thresholds": {},
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    path = tmp_path / "tiny.fp32.onnx"
    onnx.save(model, path)
    return path


def test_a_real_file(tiny_onnx: Path) -> None:
    subject = onnx_subject(tiny_onnx, threads=1)
    config = configure(seconds=0.05, batch_sizes=(1, 3), threads=1)
    rows = measure([subject], config, QUIET, [png(), png()])
    assert [(row["clock"], row["batch_size"]) for row in rows] == [
        ("model", 1),
        ("model", 3),
        ("decode", 1),
    ]
    for row in rows:
        assert (row["name"], row["engine"], row["threads"]) == ("tiny.fp32", "onnxruntime", 1)
        assert row["size_bytes"] == tiny_onnx.stat().st_size
        assert row["n"] >= 30
        assert 0 < row["latency_p50_ms"] <= row["latency_p90_ms"]
        assert row["images_per_s"] > 0
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert onnx_subject(tiny_onnx, 1, "timm/densenet121").name == "timm/densenet121"


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        onnx_subject(tmp_path / "none.onnx", 1)


def test_onnx_files_are_timed_without_torch(tiny_onnx: Path) -> None:
    """`bench` of a shipped file works where only the runtime is installed."""
    script = (
        "import sys; sys.modules['torch'] = None; from pathlib import Path; "
        "from distill.benchmarks.speed import onnx_subject; "
        f"print(onnx_subject(Path({str(tiny_onnx)!r}), 1).spec.height)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "24"


@pytest.fixture
def torch_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("task", ["single", "multi"])
def test_torch_is_timed_from_pixels_to_probabilities(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch import nn

    from distill.models import Classifier, Contract

    torch.manual_seed(0)
    size = InputSpec(height=32, width=32)
    contract = Contract(input_spec=size, input_size=32, names=("a", "b"), task=task)  # type: ignore[arg-type]
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(2))
    classifier = Classifier(network, contract).eval()
    pixels = make_pixels(3, 32, 32)
    with torch.no_grad():
        logits = classifier(torch.tensor(pixels).permute(0, 3, 1, 2) / 255).logits
    expected = logits.softmax(1) if task == "single" else logits.sigmoid()
    (tmp_path / "best.safetensors").write_bytes(b"12345")
    monkeypatch.setitem(sys.modules, "distill.runs", SimpleNamespace(load_run=lambda _: classifier))

    subject = speed.torch_subject("run", tmp_path, threads=1)

    np.testing.assert_allclose(subject.run(pixels), expected, atol=1e-6)  # type: ignore[call-overload]
    assert torch.get_num_threads() == subject.threads == 1
    assert (subject.engine, subject.precision, subject.size_bytes) == ("torch", "fp32", 5)

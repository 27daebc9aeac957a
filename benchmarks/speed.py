"""Inference speed of runs and ONNX files on the CPU: latency and throughput, one table.

Claim: rows of one table can be compared, as each was timed at many moments of the same stretch.
Conditions: one process and one stated number of threads; every model is loaded and warmed up before
the first counted call; rounds are interleaved in a new random order each; every call gets another
input; percentiles are over single calls. A machine that is busy with something else shows in
`variation_percent`; nothing here corrects for it, so differences below it say nothing.
Command: `distill bench MODEL...`, each a run directory or an ONNX file.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, groupby
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Literal

import numpy as np
from rich.table import Table
from rich.text import Text

from distill.config import BenchConfig
from distill.data.decode import InputSpec, Pixels, to_pixels
from distill.predict import Predictor
from distill.progress import Progress

SEED = 0
INPUTS = 16  # different inputs per series
MIN_CALLS = 10  # counted calls per series and round
STABLE = 0.1  # relative change of the median latency below which a model is warm
NS_PER_S, NS_PER_MS = 1_000_000_000, 1_000_000
COLUMNS: tuple[str, ...] = ("name", "engine", "precision", "clock", "batch_size")
COLUMNS += ("latency_p50_ms", "latency_p90_ms", "latency_p99_ms")
COLUMNS += ("images_per_s", "variation_percent", "n")


@dataclass(frozen=True)
class Subject:
    """A loaded model: `run` takes uint8 `(batch, height, width, 3)` to probabilities.

    None is for what is not known: a file need not state its precision (`fp32`, `fp16`, `int8`).
    """

    name: str
    engine: Literal["onnxruntime", "torch"]
    run: Callable[[Pixels], object]
    spec: InputSpec
    threads: int
    precision: str | None = None
    size_bytes: int | None = None

    def run_encoded(self, encoded: bytes) -> object:
        """Decodes and resizes one picture, and runs the model on it."""
        return self.run(np.stack([to_pixels(encoded, self.spec)]))


@dataclass
class Series:
    """A row in the making: `call` is timed on the next of `inputs`, at `typical_ns` once warm.

    `rounds` holds the counted latencies in ns, a list per round.
    """

    subject: Subject
    clock: Literal["model", "decode"]
    batch_size: int
    call: Callable[[Any], object]
    inputs: Iterator[Any]
    typical_ns: float = 0.0
    rounds: list[list[int]] = field(default_factory=list)


def resolve_threads(threads: int) -> int:
    """The number itself; for 0 the physical cores, as far as this process may use them."""
    import psutil

    if threads:
        return threads
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(int(psutil.cpu_count(logical=False) or usable), usable)


def onnx_subject(path: Path, threads: int, name: str = "") -> Subject:
    """A shipped ONNX file under onnxruntime, named after the file unless a name is given.

    Raises:
        UserError: No such file, or not one that `distill export` wrote.
    """
    threads = resolve_threads(threads)
    model = Predictor(path, threads)
    precision, size_bytes = model.metadata.get("precision"), path.stat().st_size
    name = name or path.stem
    return Subject(name, "onnxruntime", model.probs, model.spec, threads, precision, size_bytes)


def torch_subject(name: str, folder: Path, threads: int) -> Subject:
    """The best weights of a run directory under torch on the CPU, as they would be exported.

    Sets torch's number of threads, which is one for the whole process and stays.

    Raises:
        UserError: Not a complete run directory.
    """
    import torch

    from distill.models import deployed
    from distill.runs import load_run

    threads = resolve_threads(threads)
    torch.set_num_threads(threads)
    classifier = deployed(load_run(folder))
    classifier.to(memory_format=torch.channels_last)
    single = classifier.contract.task == "single"

    @torch.inference_mode()
    def run(pixels: Pixels) -> object:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255  # stays channels-last
        logits = classifier(images).logits
        return (logits.softmax(dim=1) if single else logits.sigmoid()).numpy()

    size_bytes = (folder / "best.safetensors").stat().st_size
    spec = classifier.contract.input_spec
    return Subject(name, "torch", run, spec, threads, "fp32", size_bytes)


def measure(
    subjects: Sequence[Subject],
    config: BenchConfig,
    progress: Progress,
    images: Sequence[bytes] = (),
) -> list[dict[str, Any]]:
    """Times every model at every batch size, and from encoded images at batch 1.

    Args:
        images: Encoded pictures for the clock `decode` (decode, resize, model); none, no such rows.

    Returns:
        A row per clock, batch size and model, see `summarise`.

    Raises:
        UnreadableImageError: One of `images` is no picture.
    """
    threads = resolve_threads(config.threads)
    assert all(subject.threads == threads for subject in subjects), "one table, one number"
    series = plan_series(subjects, config.batch_sizes, images)
    shuffle = random.Random(SEED).shuffle
    with progress.task("bench", len(series) * (1 + config.rounds), "series") as task:
        for one in series:
            warm_up(one, config.seconds)
            task.advance()
        for _ in range(config.rounds):
            order = list(series)
            shuffle(order)  # so that no model always follows the same other one
            for one in order:
                measure_round(one, config.seconds / config.rounds)
                task.advance()
    return [summarise(one) for one in series]


def plan_series(
    subjects: Sequence[Subject], batch_sizes: Sequence[int], images: Sequence[bytes]
) -> list[Series]:
    """All series of a table: models side by side at each batch size, then with decoding."""
    planned = []
    for size in batch_sizes:
        for subject in subjects:
            pool = make_pixels(size + INPUTS - 1, subject.spec.height, subject.spec.width)
            views = [pool[i : i + size] for i in range(INPUTS)]  # overlapping, not copied
            planned.append(Series(subject, "model", size, subject.run, cycle(views)))
    for subject in subjects if images else ():
        planned.append(Series(subject, "decode", 1, subject.run_encoded, cycle(images)))
    return planned


def make_pixels(count: int, height: int, width: int) -> Pixels:
    """Soft patches of colour, uint8 `(count, height, width, 3)`, always the same ones."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    spec = InputSpec(height=height, width=width, resize="squash", interpolation="bicubic")
    return np.stack([to_pixels(one, spec) for one in coarse])


def warm_up(series: Series, seconds: float) -> None:
    """Calls until the median latency of a window is that of the window before, or time is up.

    A window is a fifth of `seconds`, and at least 3 calls.
    """
    spent, before = 0, 0.0
    while True:
        window = _time_calls(series, seconds / 5, 3)
        spent += sum(window)
        series.typical_ns = statistics.median(window)
        stable = abs(series.typical_ns - before) <= STABLE * before
        if stable or spent >= seconds * NS_PER_S:
            return
        before = series.typical_ns


def measure_round(series: Series, seconds: float) -> None:
    """Times calls for `seconds`, 10 at least; only one if a single call takes longer than that.

    One call goes before, uncounted: it finds the caches and the spinning threads of another model.
    """
    slow = series.typical_ns >= seconds * NS_PER_S
    if not slow:
        series.call(next(series.inputs))
    series.rounds.append(_time_calls(series, seconds, 1 if slow else MIN_CALLS))


def _time_calls(series: Series, seconds: float, min_calls: int) -> list[int]:
    budget, spent, latencies = round(seconds * NS_PER_S), 0, list[int]()
    while spent < budget or len(latencies) < min_calls:
        argument = next(series.inputs)
        start = perf_counter_ns()
        series.call(argument)
        latencies.append(perf_counter_ns() - start)
        spent += latencies[-1]
    return latencies


def summarise(series: Series) -> dict[str, Any]:
    """A row of results; what is not known or not measured is absent.

    `n` counts calls, over which the percentiles are. `images_per_s` is `batch_size` over the median
    of the rounds' median latencies; `variation_percent` is the range of those medians in percent of
    it, absent for a single round.
    """
    subject, rounds = series.subject, series.rounds
    pooled = sorted(ns / NS_PER_MS for latencies in rounds for ns in latencies)
    medians = [statistics.median(latencies) / NS_PER_MS for latencies in rounds]
    typical, spread = statistics.median(medians), max(medians) - min(medians)
    row: dict[str, Any] = {"name": subject.name, "engine": subject.engine}
    row |= {"precision": subject.precision, "size_bytes": subject.size_bytes}
    row |= {"clock": series.clock, "batch_size": series.batch_size}
    row |= {"threads": subject.threads, "n": len(pooled)}
    row |= {f"latency_p{percent}_ms": percentile(pooled, percent) for percent in (50, 90, 99)}
    row["images_per_s"] = 1000 * series.batch_size / typical
    row["variation_percent"] = 100 * spread / typical if len(rounds) > 1 else None
    return {key: value for key, value in row.items() if value is not None}


def percentile(ascending: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` % of all do not exceed (nearest rank).

    None where too few were measured to tell: p90 takes 10 values, p99 takes 100.
    """
    count = len(ascending)
    if count == 0 or (percent > 50 and count * (100 - percent) < 100):
        return None
    return ascending[-(-count * percent // 100) - 1]  # rank rounded up, in integers


def render(rows: Sequence[dict[str, Any]]) -> Table:
    """A table for the terminal, a section per clock and batch size; empty is not measured."""
    threads = ", ".join(map(str, sorted({row["threads"] for row in rows})))
    table = Table(title=f"Inference speed on the CPU, threads: {threads}")
    for key in COLUMNS:
        title = key.removeprefix("latency_").replace("_per_", "/").replace("_", " ")
        table.add_column(title, justify="left" if key in COLUMNS[:4] else "right")
    for _, section in groupby(rows, key=lambda row: (row["clock"], row["batch_size"])):
        for row in section:
            cells = [row.get(key, "") for key in COLUMNS]
            texts = [f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in cells]
            table.add_row(*map(Text, texts))
        table.add_section()
    return table

"""Training speed: the same distillation by KD_Lib, by timm, by the book, and by our own loop.

Claim: with a cache of the teacher's logits an epoch takes at most 1.10 times the student alone, and
a run of 30 epochs, its cache included, is 8 times as fast as KD_Lib and 4 times as fast as timm.
`ratios` says whether that held.
Conditions: see `training_engines` for what is equal and what is not. Every run is a process of its
own; rounds are interleaved in a new random order each, and differ in the seed of weights, order
and views. Ratios are taken within a round, as a machine that gets slower slows both sides; of them
and of seconds and bytes the median over rounds is given, of accuracies the mean.
Command: `distill bench training [DATA] --teacher RUN`; for speed alone a teacher's name will do.
"""

from __future__ import annotations

import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.benchmarks.training_engines import ASKS_TEACHER, ENGINES, Engine, check_engine
from distill.benchmarks.training_report import draw, title
from distill.benchmarks.training_run import TrainingBench, load_data, make_workload
from distill.environment import environment
from distill.errors import RunStopped, UserError
from distill.files import write_json
from distill.progress import Progress

Run = dict[str, Any]
Row = dict[str, Any]


def choose_engines(names: str, device: str, progress: Progress) -> list[Engine]:
    """The engines of a comma-separated list; of an empty one all that can run here.

    Raises:
        UserError: An unknown engine, or one asked for by name that is not installed.
    """
    chosen = [name for name in ENGINES if not names or name in names.split(",")]
    if unknown := [name for name in names.split(",") if names and name not in ENGINES]:
        raise UserError(f"unknown engine {unknown[0]!r}", "--engines", f"of {', '.join(ENGINES)}")
    for engine in tuple(chosen):
        try:
            check_engine(engine)
            if engine == "kd_lib" and device == "mps":
                raise UserError("KD_Lib knows no device 'mps'", "--device", "use cpu")
        except UserError as error:
            if names:
                raise
            progress.say(f"left out: {engine}: {error}")
            chosen.remove(engine)
    return chosen


def bench_training(
    config: TrainingBench,
    engines: Sequence[Engine],
    workers: int,
    out: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """Trains with every engine in every round.

    Args:
        out: Directory for `training.json` and `training.png`; None writes neither.

    Returns:
        `rows` (see `summarise`), `ratios`, `settings`, `images` (their numbers), every run as it
        was measured in `runs`, and `env`.

    Raises:
        UserError: Something in `config` cannot be used, or `out` has results; nothing was trained.
        RunStopped: An engine failed.
    """
    if out and (out / "training.json").exists():
        raise UserError("has results already", str(out), "choose another --out")
    if out:
        out.mkdir(parents=True, exist_ok=True)
    with _scratch("bench", out) as scratch:
        write_json(scratch / "settings.json", config.model_dump(mode="json"))
        data = load_data(config, scratch / "images", workers, progress)
        make_workload(config, data, "live", 0, scratch)  # mistakes show before anything is trained
        runs = run_rounds(config, engines, scratch, progress)
        epochs = config.train.epochs
        images = {name: len(split.labels) for name, split in data.splits.items()}
    report = {
        "rows": [summarise([run for run in runs if run["engine"] == e], epochs) for e in engines],
        "ratios": ratios(runs, epochs),
        "settings": config.model_dump(mode="json"),
        "images": images,
        "runs": runs,
        "env": environment(),
    }
    if out:
        draw(report, title(config, images["train"]), out / "training.png")
        write_json(out / "training.json", report)
    return report


def run_rounds(
    config: TrainingBench, engines: Sequence[Engine], scratch: Path, progress: Progress
) -> list[Run]:
    """Every engine once per round, in a random order that is another one in each round."""
    runs, shuffle = [], random.Random(config.seed).shuffle
    with progress.task("bench training", config.rounds * len(engines), "runs") as bar:
        for round_ in range(config.rounds):
            order = list(engines)
            shuffle(order)
            for engine in order:
                run = run_process(engine, round_, scratch)
                runs.append(run)
                seconds = statistics.median(run["epoch_seconds"])
                bar.advance()
                bar.note(f"round {round_ + 1}: {engine} {seconds:.2f} s per epoch")
    return runs


def run_process(engine: Engine, round_: int, scratch: Path) -> Run:
    """A run in a new process, and what it measured; what it wrote is deleted."""
    module = "distill.benchmarks.training_run"
    with _scratch(engine, scratch) as folder:
        arguments = [str(scratch / "settings.json"), engine, str(round_), str(folder)]
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            what = f"the engine {engine} failed, {last.removeprefix('error: ')}"
            raise RunStopped(what, hint="leave it out of --engines, or install what it needs")
        measured: Run = json.loads((folder / "result.json").read_text("utf-8"))
    return measured


@contextlib.contextmanager
def _scratch(name: str, parent: Path | None) -> Iterator[Path]:
    """A folder that is deleted in the end, as far as a process just killed lets go of it."""
    with tempfile.TemporaryDirectory(
        prefix=f"{name}-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def whole_seconds(run: Run, epochs: int) -> float:
    """Seconds of a run of all `epochs`, its cache included.

    Of a shorter run, the cache once, and `epochs` times the median epoch and all else per epoch.
    """
    seconds: list[float] = run["epoch_seconds"]
    if len(seconds) == epochs:
        return float(run["total_seconds"])
    cache = run.get("cache_seconds", 0.0)
    besides = (run["total_seconds"] - cache - sum(seconds)) / len(seconds)
    return float(cache + epochs * (statistics.median(seconds) + besides))


def summarise(runs: Sequence[Run], epochs: int) -> Row:
    """A row of results out of the runs of one engine, one per round.

    `seconds_per_epoch` is training only, the median over rounds of the median over epochs;
    `top1` is in percent of the test split. Absent: `cache_seconds` and its share per epoch without
    a cache; the range and deviation over rounds if there is one round; `top1` if `extrapolated`.
    """
    per_epoch = [statistics.median(run["epoch_seconds"]) for run in runs]
    typical = statistics.median(per_epoch)
    row: Row = {
        "engine": runs[0]["engine"],
        "seconds_per_epoch": typical,
        "images_per_s": runs[0]["images_per_epoch"] / typical,
        "peak_memory_bytes": round(statistics.median(run["peak_memory_bytes"] for run in runs)),
        "total_seconds": statistics.median(whole_seconds(run, epochs) for run in runs),
    }
    if len(runs) > 1:
        row["seconds_per_epoch_min"] = min(per_epoch)
        row["seconds_per_epoch_max"] = max(per_epoch)
    if "cache_seconds" in runs[0]:
        row["cache_seconds"] = statistics.median(run["cache_seconds"] for run in runs)
        row["cache_seconds_per_epoch"] = row["cache_seconds"] / epochs
    if len(runs[0]["epoch_seconds"]) < epochs:
        row["extrapolated"] = True
        return row
    scores = [run["top1"] for run in runs]
    row["top1"] = statistics.fmean(scores)
    if len(scores) > 1:
        row["top1_std"] = statistics.stdev(scores)
    return row


def ratios(runs: Sequence[Run], epochs: int) -> dict[str, dict[str, float]]:
    """Seconds of each engine over those of another in the same round, medians over rounds.

    Returns:
        `epoch_over_student_only` and `total_over_student_only`, by engine; `total_over_cached`, of
        the engines that ask a teacher. Empty if the other engine was not run.
    """

    def per_epoch(run: Run) -> float:
        return float(statistics.median(run["epoch_seconds"]))

    def total(run: Run) -> float:
        return whole_seconds(run, epochs)

    def over(other: Engine, clock: Callable[[Run], float]) -> dict[str, float]:
        bases = {run["round"]: clock(run) for run in runs if run["engine"] == other}
        by_engine: dict[str, list[float]] = {}
        for run in runs if bases else ():
            by_engine.setdefault(run["engine"], []).append(clock(run) / bases[run["round"]])
        return {engine: statistics.median(values) for engine, values in by_engine.items()}

    cached = over("cached", total)
    return {
        "epoch_over_student_only": over("student_only", per_epoch),
        "total_over_student_only": over("student_only", total),
        "total_over_cached": {e: ratio for e, ratio in cached.items() if e in ASKS_TEACHER},
    }

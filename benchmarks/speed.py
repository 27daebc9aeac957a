"""Inference speed of files and runs, each on several engines: latency and throughput, one table.

Claim: rows of one table can be compared, and a row that is not to be trusted says so.
Conditions: every model and engine is a process of its own in every round, rounds are interleaved in
a new random order each, warm-up is not counted, every call gets another input, and one table has
one stated number of threads. The matrix product and the copy that the hardware's share is taken of
are measured in the same rounds. Nothing corrects for a machine that is busy with something else: it
shows in `variation_percent`.
Command: `distill bench MODEL...`, each a run directory or an ONNX file; see docs/speed.md.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from distill.benchmarks.flops import count_work
from distill.benchmarks.limits import Limits
from distill.benchmarks.machine import busy_warning, machine, resolve_threads
from distill.benchmarks.speed_records import SpeedReport, SpeedRow
from distill.benchmarks.speed_rows import add_share, base_row, by_series, mark_best, summarise
from distill.benchmarks.speed_worker import (
    Failed,
    NoOutcome,
    Task,
    Unavailable,
    WorkerReply,
    read_reply,
)
from distill.benchmarks.subjects import SEED, Model, Subject, pair
from distill.config import BenchConfig
from distill.environment import environment
from distill.errors import UserError
from distill.progress import Progress, span

Printed = TypeVar("Printed")
START_S = 600.0  # to import, load, compile and warm up: TensorRT takes minutes to build an engine
SLOWEST = 20.0  # of the time that a worker is to measure for: calls that take longer than planned
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def bench_speed(
    models: Sequence[Model],
    config: BenchConfig,
    progress: Progress,
    pictures: Sequence[bytes] = (),
    limit_s: float = math.inf,
) -> SpeedReport:
    """Times every model on every engine that takes it and that can run here.

    Args:
        pictures: Encoded pictures for the clock `decode` (decode, resize, model, label); none, no
            such rows.
        limit_s: Seconds after which no further round begins that would not end in time; the first
            one is done in any case.

    Raises:
        UserError: An unknown engine, or nothing could be timed.
    """
    subjects, left_out = pair(models, config.engines)
    env = environment() | machine()  # before the work is our own
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for number, encoded in enumerate(pictures):
            (Path(folder) / f"{number:06}").write_bytes(encoded)
        tasks = {
            subject: make_task(subject, config, folder if pictures else None)
            for subject in subjects
        }
        replies, limits, failed = run_rounds(tasks, config, progress, limit_s)
    config = config.model_copy(update={"rounds": max(map(len, replies.values()), default=1)})
    rows, without = make_rows(replies, tasks, config)
    left_out += failed + without
    if not replies:
        what = f"nothing could be timed: {'; '.join(left_out)}"
        raise UserError(what, "bench", "name other engines (bench.engines) or files")
    work = {model.name: count_work(model.path) for model in models if model.format == "onnx"}
    for reason in left_out:
        progress.say(f"not measured: {reason}")
    warnings = [busy_warning(env["cpu_busy_percent"])]
    warnings += ["one round tells nothing of variation"] if config.rounds == 1 else []
    return SpeedReport(
        rows=tuple(add_share(row, work.get(row.name), limits) for row in rows),
        left_out=tuple(left_out),
        warnings=tuple(warning for warning in warnings if warning),
        limits=limits,
        config=config,
        env=env,
    )


def make_rows(
    replies: dict[Subject, list[WorkerReply]], tasks: dict[Subject, Task], config: BenchConfig
) -> tuple[list[SpeedRow], list[str]]:
    """A row per subject and series, and a line for each series that has none."""
    rows, without = list[SpeedRow](), list[str]()
    for subject, rounds in replies.items():
        base = base_row(subject, rounds, tasks[subject])
        for key, outcomes in by_series(rounds).items():
            missing = next((one for one in outcomes if isinstance(one, NoOutcome)), None)
            if missing is None:
                rows.append(SpeedRow(**dict(base), **dict(summarise(outcomes, config))))
            else:
                without.append(f"{subject}, {' '.join(map(str, key))}: {missing.reason}")
    return mark_best(rows), without


def make_task(subject: Subject, config: BenchConfig, pictures: str | None) -> Task:
    """What a worker does for a subject in round 0."""
    return Task(
        engine=subject.engine,
        path=str(subject.model.path),
        spec=subject.model.spec,
        config=config,
        threads=resolve_threads(config.threads),
        seconds=config.seconds / config.rounds,
        seed=SEED,
        pictures=pictures,
    )


def run_rounds(
    tasks: dict[Subject, Task], config: BenchConfig, progress: Progress, limit_s: float = math.inf
) -> tuple[dict[Subject, list[WorkerReply]], Limits | None, list[str]]:
    """Every task, and the limits, once per round in a process of its own, in random order.

    What fails is left out of later rounds and of the results.

    Returns:
        Replies per subject, the limits, and reasons for what was left out.
    """
    replies: dict[Subject, list[WorkerReply]] = {subject: [] for subject in tasks}
    limits, left_out = list[Limits | Failed](), list[str]()
    shuffle, start = random.Random(SEED).shuffle, time.monotonic()
    with progress.task("bench", config.rounds * (len(tasks) + 1), "processes") as bar:
        for round_ in range(config.rounds):
            spent = time.monotonic() - start
            if round_ and spent * (round_ + 1) / round_ > limit_s:
                progress.say(f"bench: {round_} of {config.rounds} rounds, for {span(limit_s)}")
                break
            order: list[Subject | None] = [*tasks, None]
            shuffle(order)  # so that no model always follows the same other one
            for subject in order if replies else ():
                if subject is None:
                    limits.append(run_limits(config))
                elif subject in replies:
                    task = tasks[subject].model_copy(update={"seed": SEED + round_})
                    reply = run_worker(task)
                    if isinstance(reply, WorkerReply):
                        replies[subject].append(reply)
                    else:
                        left_out.append(_drop(replies, subject, reply))
                bar.advance()
    return replies, typical_limits(limits), left_out


def _drop(
    replies: dict[Subject, list[WorkerReply]], subject: Subject, reply: Unavailable | Failed
) -> str:
    """Takes out a subject that failed, or all of an engine that cannot run here; says why."""
    if isinstance(reply, Failed):
        del replies[subject]
        return f"{subject}: {reply.failed}"
    for other in [candidate for candidate in replies if candidate.engine == subject.engine]:
        del replies[other]
    return f"{subject.engine}: {reply.unavailable}"


def run_worker(task: Task) -> WorkerReply | Unavailable | Failed:
    """What a worker measured, see `speed_worker`."""
    stdin, seconds = task.model_dump_json(), measured_s(task)
    return run_process("speed_worker", read_reply, [], task.threads, stdin, seconds)


def run_limits(config: BenchConfig) -> Limits | Failed:
    """What the hardware can do at most, see `limits`."""
    threads = resolve_threads(config.threads)
    arguments = [str(threads), config.device]
    return run_process("limits", Limits.model_validate_json, arguments, threads)


def measured_s(task: Task) -> float:
    """Seconds that a worker measures for if every call is short."""
    sizes = len(task.config.batch_sizes) if "offline" in task.config.scenarios else 0
    series = len(task.config.scenarios) - (sizes > 0) + sizes
    return float(task.seconds * series * (2 if task.pictures else 1))


def typical_limits(rounds: Sequence[Limits | Failed]) -> Limits | None:
    """Medians over the rounds that could be measured; None if none could."""
    measured = [reply for reply in rounds if isinstance(reply, Limits)]
    if not measured:
        return None
    products = {
        precision: statistics.median(reply.flop_per_s[precision] for reply in measured)
        for precision in measured[0].flop_per_s
    }
    copy = statistics.median(reply.bytes_per_s for reply in measured)
    return Limits(flop_per_s=products, bytes_per_s=copy)


def run_process(
    module: str,
    read: Callable[[str], Printed],
    arguments: Sequence[str],
    threads: int,
    stdin: str = "",
    seconds: float = 0.0,
) -> Printed | Failed:
    """What a module of this folder prints last, in a new process.

    A process that dies, that prints nothing of the kind, or that hangs, has `Failed`.

    Args:
        read: Makes it of the printed line; raises ValueError where it cannot.
        seconds: What it is to measure for; it gets `SLOWEST` times that, and `START_S` to begin.
    """
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    command = [sys.executable, "-P", "-m", f"distill.benchmarks.{module}", *arguments]
    limit = START_S + SLOWEST * seconds
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return Failed(failed=f"its process did not end within {limit:.0f} s")
    try:
        return read(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        return Failed(failed=f"its process ended with status {done.returncode} {last}".strip())

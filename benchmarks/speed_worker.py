"""One model on one engine in a process of its own: loaded, asked in every scenario, timed.

Command: `python -m distill.benchmarks.speed_worker`, with a `Task` as JSON on stdin; the last line
of stdout is a `WorkerReply`, `Unavailable` or `Failed` as JSON, see `read_reply`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from distill.benchmarks.engines import EngineModule, Run, Settings, find_engine, reason_against
from distill.benchmarks.scenarios import (
    Clock,
    Outcome,
    Query,
    WallClock,
    multi_stream,
    server,
    stream,
)
from distill.benchmarks.subjects import ClockName, decode_query, model_query
from distill.config import BenchConfig, Options, Positive, Scenario
from distill.data.decode import InputSpec
from distill.errors import first_line
from distill.files import JsonModel

NS_PER_MS = 1_000_000


class Task(Options):
    """What a worker does.

    Attributes:
        path: ONNX file or run directory.
        threads: A number, not 0.
        seconds: Per series, in this round.
        seed: Of the server's arrivals.
        pictures: Folder of encoded pictures for the clock `decode`; None for no such clock.
    """

    engine: str
    path: str
    spec: InputSpec
    config: BenchConfig
    threads: Annotated[int, Field(ge=1)]
    seconds: Positive
    seed: int
    pictures: str | None = None


class Series(JsonModel):
    """What is asked: a scenario on a clock."""

    scenario: Scenario
    clock: ClockName
    batch_size: int


class SeriesOutcome(Series):
    """What one round of a series gave, see `Outcome`."""

    latencies_ns: tuple[int, ...]
    images_per_s: float


class NoOutcome(Series):
    """Why a series has none."""

    reason: str


class WorkerReply(JsonModel):
    """What one round of a model on an engine gave.

    Attributes:
        load_ms: From the file to a model that is ready.
        first_ms: Its first call with one image.
        precision: Where the engine sets it.
    """

    load_ms: float
    first_ms: float
    series: tuple[SeriesOutcome | NoOutcome, ...]
    precision: str | None = None


class Unavailable(JsonModel):
    """Why the engine cannot run here."""

    unavailable: str


class Failed(JsonModel):
    """Why a process has nothing to tell."""

    failed: str


def read_reply(text: str) -> WorkerReply | Unavailable | Failed:
    """What a worker printed.

    Raises:
        ValueError: It is none of these.
    """
    replies = TypeAdapter[WorkerReply | Unavailable | Failed](WorkerReply | Unavailable | Failed)
    return replies.validate_json(text)


def measure(task: Task, clock: Clock) -> WorkerReply:
    """Loads and times a model."""
    engine = find_engine(task.engine)
    start = clock.now()
    loaded = engine.load(Path(task.path), Settings(task.threads, task.config.device))
    ready = clock.now()
    query = model_query(loaded.run, task.spec, 1)
    asked = clock.now()
    query.call(next(query.inputs))
    answered = clock.now()
    return WorkerReply(
        load_ms=(ready - start) / NS_PER_MS,
        first_ms=(answered - asked) / NS_PER_MS,
        series=tuple(measure_series(loaded.run, engine, task, clock)),
        precision=loaded.precision or None,
    )


def measure_series(
    run: Run, engine: EngineModule, task: Task, clock: Clock
) -> Iterator[SeriesOutcome | NoOutcome]:
    """Every scenario on every clock; `offline` at every batch size."""
    pictures = read_pictures(task.pictures)
    clocks: tuple[ClockName, ...] = ("model", "decode") if pictures else ("model",)
    for name in clocks:
        for scenario in task.config.scenarios:
            for size in task.config.batch_sizes if scenario == "offline" else (1,):
                count = task.config.streams if scenario == "multi_stream" else 1
                queries = [
                    decode_query(run, task.spec, pictures, size, offset)
                    if name == "decode"
                    else model_query(run, task.spec, size, offset)
                    for offset in range(count)
                ]
                outcome = ask(scenario, queries, engine, task, clock)
                series = Series(scenario=scenario, clock=name, batch_size=size)
                if isinstance(outcome, str):
                    yield NoOutcome(**dict(series), reason=outcome)
                else:
                    yield SeriesOutcome(**dict(series), **vars(outcome))


def ask(
    scenario: Scenario, queries: Sequence[Query], engine: EngineModule, task: Task, clock: Clock
) -> Outcome | str:
    """The outcome of a scenario, or why there is none."""
    if scenario == "multi_stream":
        if not engine.CONCURRENT:
            return "this engine takes one call at a time"
        return multi_stream(queries, task.seconds, clock)
    if scenario == "server":
        bound = task.config.latency_bound_ms
        outcome = server(queries[0], task.seconds, bound, task.seed, clock)
        return outcome or f"no rate keeps the bound of {bound:g} ms"
    return stream(queries[0], task.seconds, clock)


def read_pictures(folder: str | None) -> list[bytes]:
    """Contents of a folder's files, in the order of their names."""
    return [file.read_bytes() for file in sorted(Path(folder).iterdir())] if folder else []


def main() -> int:
    """Does the task on stdin; returns the exit status."""
    task = Task.model_validate_json(sys.stdin.read())
    reply: WorkerReply | Unavailable | Failed
    try:
        reason = reason_against(task.engine, task.config.device)
        reply = Unavailable(unavailable=reason) if reason else measure(task, WallClock())
    except Exception as error:  # engines raise whatever they like; the others go on without it
        reply = Failed(failed=f"{type(error).__name__}: {first_line(error)}")
    print(json.dumps(reply.to_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

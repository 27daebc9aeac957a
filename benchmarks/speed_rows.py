"""Rows of the speed table, out of what the workers measured in all rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from distill.benchmarks.flops import Work
from distill.benchmarks.limits import Limits
from distill.benchmarks.sampling import (
    MOST_VARIATION,
    PERCENTS,
    interval,
    needed,
    percentile,
    variation_percent,
)
from distill.benchmarks.speed_records import SeriesRow, SpeedRow, SubjectRow
from distill.benchmarks.speed_worker import NS_PER_MS, NoOutcome, SeriesOutcome, Task, WorkerReply
from distill.benchmarks.subjects import ClockName, Subject
from distill.config import BenchConfig, Scenario

Key = tuple[Scenario, ClockName, int]  # the last is the batch size


def base_row(subject: Subject, rounds: Sequence[WorkerReply], task: Task) -> SubjectRow:
    """What all rows of a subject say: the model, the engine, how long loading took."""
    model = subject.model
    return SubjectRow(
        name=model.name,
        engine=subject.engine,
        device=task.config.device,
        precision=rounds[0].precision or model.precision,
        size_bytes=model.size_bytes,
        threads=task.threads,
        val=dict([model.val]) if model.val else None,
        load_ms=statistics.median(reply.load_ms for reply in rounds),
        first_ms=statistics.median(reply.first_ms for reply in rounds),
    )


def by_series(rounds: Sequence[WorkerReply]) -> dict[Key, list[SeriesOutcome | NoOutcome]]:
    """Outcomes of all rounds, one per round, by what was asked."""
    series: dict[Key, list[SeriesOutcome | NoOutcome]] = {}
    for reply in rounds:
        for outcome in reply.series:
            key = (outcome.scenario, outcome.clock, outcome.batch_size)
            series.setdefault(key, []).append(outcome)
    return series


def summarise(outcomes: Sequence[SeriesOutcome], config: BenchConfig) -> SeriesRow:
    """What a row says of one series, of which these are the rounds."""
    asked = outcomes[0]
    pooled = sorted(ns / NS_PER_MS for outcome in outcomes for ns in outcome.latencies_ns)
    rates = [outcome.images_per_s for outcome in outcomes]
    row = SeriesRow(
        scenario=asked.scenario,
        clock=asked.clock,
        batch_size=asked.batch_size,
        n=len(pooled),
        images_per_s=statistics.median(rates),
        streams=config.streams if asked.scenario == "multi_stream" else None,
        latency_bound_ms=config.latency_bound_ms if asked.scenario == "server" else None,
        **{f"latency_p{percent}_ms": percentile(pooled, percent) for percent in PERCENTS},
        **{f"latency_p{percent}_ci_ms": interval(pooled, percent) for percent in PERCENTS},
        variation_percent=variation_percent(rates),
    )
    return row.model_copy(update={"warnings": row_warnings(row) or None})


def row_warnings(row: SeriesRow) -> tuple[str, ...]:
    """Why not to trust a row; of a batch only the rate is asked, not its tail."""
    warnings = []
    if (row.variation_percent or 0.0) > MOST_VARIATION:
        warnings.append(f"rounds differ by {row.variation_percent:.0f} %")
    if row.scenario != "offline":
        for percent in PERCENTS:
            if getattr(row, f"latency_p{percent}_ms") is None:
                few = f"{row.n} queries are too few for p{percent}"
                warnings.append(f"{few}, which takes {needed(percent)}")
    return tuple(warnings)


def mark_best(rows: Sequence[SpeedRow]) -> list[SpeedRow]:
    """The rows, with `best` in the fastest batch size of each model, engine and clock."""

    def whose(row: SpeedRow) -> tuple[str, str, str]:
        return row.name, row.engine, row.clock

    fastest: dict[tuple[str, str, str], SpeedRow] = {}
    for row in sorted(rows, key=lambda row: row.images_per_s, reverse=True):
        if row.scenario == "offline":
            fastest.setdefault(whose(row), row)
    best = [*fastest.values()]
    return [
        row.model_copy(update={"best": True}) if any(row is one for one in best) else row
        for row in rows
    ]


def add_share(row: SpeedRow, work: Work | None, limits: Limits | None) -> SpeedRow:
    """The row with arithmetic and bytes per second, and their shares of the limits, in percent.

    For the clock `model` only, where the work is known; a share only where the limit of the row's
    precision was measured.
    """
    if work is None or row.clock != "model":
        return row
    flop_per_s = work.flop * row.images_per_s
    bytes_per_s = work.bytes_per_image(row.batch_size) * row.images_per_s
    known = {"flop_per_image": work.flop, "flop_per_s": flop_per_s, "bytes_per_s": bytes_per_s}
    if limits is not None:
        known["bytes_share_percent"] = 100 * bytes_per_s / limits.bytes_per_s
        product = limits.flop_per_s.get(row.precision)
        if product:
            known["flop_share_percent"] = 100 * flop_per_s / product
    return row.model_copy(update=known)

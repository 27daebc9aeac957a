"""Rows of the speed table, out of what the workers measured in all rounds.

What is not known or was not measured is absent from a row.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from distill.benchmarks.flops import Work
from distill.benchmarks.sampling import (
    MOST_VARIATION,
    PERCENTS,
    interval,
    needed,
    percentile,
    variation_percent,
)
from distill.benchmarks.speed_worker import NS_PER_MS, Task
from distill.benchmarks.subjects import Subject
from distill.config import BenchConfig

Row = dict[str, Any]
Key = tuple[str, str, int]  # scenario, clock, batch size


def base_row(subject: Subject, rounds: Sequence[dict[str, Any]], task: Task) -> Row:
    """What all rows of a subject say: the model, the engine, how long loading took.

    `load_ms` is from the file to a model that is ready, `first_ms` its first call with one image;
    both are medians over rounds, each of which was a new process.
    """
    model = subject.model
    row: Row = {"name": model.name, "engine": subject.engine, "device": task.config.device}
    row["precision"] = rounds[0].get("precision", model.precision)
    row |= {"size_bytes": model.size_bytes, "threads": task.threads}
    row["val"] = model.val and dict([model.val])
    for key in ("load_ms", "first_ms"):
        row[key] = statistics.median(reply[key] for reply in rounds)
    return {key: value for key, value in row.items() if value is not None}


def by_series(rounds: Sequence[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Outcomes of all rounds, one per round, by what was asked."""
    series: dict[Key, list[dict[str, Any]]] = {}
    for reply in rounds:
        for outcome in reply["series"]:
            key = (outcome["scenario"], outcome["clock"], outcome["batch_size"])
            series.setdefault(key, []).append(outcome)
    return series


def summarise(key: Key, outcomes: Sequence[dict[str, Any]], config: BenchConfig) -> Row:
    """What a row says of one series.

    `n` counts queries, over which the percentiles are; `_ci_ms` is a percentile's 95 % interval.
    `images_per_s` is the median over rounds, `variation_percent` the range of the rounds in percent
    of it, absent for a single round.
    """
    scenario, clock, batch_size = key
    pooled = sorted(ns / NS_PER_MS for outcome in outcomes for ns in outcome["latencies_ns"])
    rates = [outcome["images_per_s"] for outcome in outcomes]
    row: Row = {"scenario": scenario, "clock": clock, "batch_size": batch_size, "n": len(pooled)}
    if scenario == "multi_stream":
        row["streams"] = config.streams
    if scenario == "server":
        row["latency_bound_ms"] = config.latency_bound_ms
    for percent in PERCENTS:
        row[f"latency_p{percent}_ms"] = percentile(pooled, percent)
        row[f"latency_p{percent}_ci_ms"] = interval(pooled, percent)
    row["images_per_s"] = statistics.median(rates)
    row["variation_percent"] = variation_percent(rates)
    row["warnings"] = row_warnings(row) or None
    return {key: value for key, value in row.items() if value is not None}


def row_warnings(row: Row) -> list[str]:
    """Why not to trust a row; of a batch only the rate is asked, not its tail."""
    warnings = []
    if (row["variation_percent"] or 0.0) > MOST_VARIATION:
        warnings.append(f"rounds differ by {row['variation_percent']:.0f} %")
    if row["scenario"] != "offline":
        for percent in PERCENTS:
            if row[f"latency_p{percent}_ms"] is None:
                few = f"{row['n']} queries are too few for p{percent}"
                warnings.append(f"{few}, which takes {needed(percent)}")
    return warnings


def mark_best(rows: Sequence[Row]) -> None:
    """Sets `best` in the fastest batch size of each model, engine and clock."""

    def whose(row: Row) -> tuple[str, str, str]:
        return row["name"], row["engine"], row["clock"]

    offline = [row for row in rows if row["scenario"] == "offline"]
    for _, group in groupby(sorted(offline, key=whose), key=whose):
        max(group, key=lambda row: float(row["images_per_s"]))["best"] = True


def add_share(row: Row, work: Work | None, limits: dict[str, Any]) -> None:
    """Adds arithmetic and bytes per second, and their shares of the limits, in percent.

    For the clock `model` only, where the work is known; a share only where the limit of the row's
    precision was measured.
    """
    if work is None or row["clock"] != "model":
        return
    rate = row["images_per_s"]
    row["flop_per_image"] = work.flop
    row["flop_per_s"] = work.flop * rate
    row["bytes_per_s"] = work.bytes_per_image(row["batch_size"]) * rate
    product = limits.get("flop_per_s", {}).get(row.get("precision"))
    if product:
        row["flop_share_percent"] = 100 * row["flop_per_s"] / product
    if limits:
        row["bytes_share_percent"] = 100 * row["bytes_per_s"] / limits["bytes_per_s"]

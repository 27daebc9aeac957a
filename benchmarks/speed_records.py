"""What `distill bench` reports: rows, limits and conditions, as its JSON has them."""

from __future__ import annotations

from typing import Any, Literal

from distill.benchmarks.limits import Limits
from distill.benchmarks.subjects import ClockName
from distill.config import BenchConfig, Scenario
from distill.files import JsonModel

Interval = tuple[float, float]


class SubjectRow(JsonModel):
    """What all rows of a model on an engine say. None is for what is not known.

    Attributes:
        threads: A number, not 0.
        val: The task's main score on the validation split, in percent, by its name.
        load_ms: From the file to a model that is ready.
        first_ms: Its first call with one image. Both are medians over rounds, each of which was a
            new process.
    """

    name: str
    engine: str
    device: Literal["cpu", "cuda"]
    threads: int
    load_ms: float
    first_ms: float
    precision: str | None = None
    size_bytes: int | None = None
    val: dict[str, float] | None = None


class SeriesRow(JsonModel):
    """What a row says of one series. None is for what was not measured.

    Attributes:
        n: Queries, over which the percentiles are; `_ci_ms` is a percentile's 95 % interval.
        images_per_s: Median over rounds.
        streams: Of `multi_stream` only.
        latency_bound_ms: Of `server` only.
        variation_percent: Range of the rounds in percent of their median; None for a single round.
        warnings: Why not to trust the row; None for no reason.
    """

    scenario: Scenario
    clock: ClockName
    batch_size: int
    n: int
    images_per_s: float
    streams: int | None = None
    latency_bound_ms: float | None = None
    latency_p50_ms: float | None = None
    latency_p50_ci_ms: Interval | None = None
    latency_p90_ms: float | None = None
    latency_p90_ci_ms: Interval | None = None
    latency_p99_ms: float | None = None
    latency_p99_ci_ms: Interval | None = None
    variation_percent: float | None = None
    warnings: tuple[str, ...] | None = None


class SpeedRow(SubjectRow, SeriesRow):
    """A row of the table: a series of a model on an engine. None is for what is not known.

    Attributes:
        best: Of the fastest batch size of a model, engine and clock; None for all others.
        flop_per_image: See `flops.Work`.
        flop_share_percent, bytes_share_percent: Of the limits.
    """

    best: Literal[True] | None = None
    flop_per_image: int | None = None
    flop_per_s: float | None = None
    bytes_per_s: float | None = None
    flop_share_percent: float | None = None
    bytes_share_percent: float | None = None


class SpeedReport(JsonModel):
    """One table.

    Attributes:
        left_out: What was not measured, and why.
        warnings: Of the whole table.
        limits: Medians over rounds; None where they could not be measured.
        env: What it was measured with and on, see `environment` and `machine`.
    """

    rows: tuple[SpeedRow, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]
    limits: Limits | None
    config: BenchConfig
    env: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON has it; limits that are not known are an empty object there."""
        found = super().to_json()
        return found if self.limits else found | {"limits": {}}

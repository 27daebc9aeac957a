"""From loops of several rounds to rows: medians, percentiles, ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from distill.benchmarks.sampling import percentile, variation_percent
from distill.benchmarks.service_load import Outcome
from distill.benchmarks.service_records import Kill, Sample, ServiceRow, Step

Rounds = Sequence[Sequence[Sample]]
OURS = "distill"  # what names of services of ours begin with


def rows_of(rounds: Rounds) -> tuple[ServiceRow, ...]:
    """A row per service and size of picture, in the order of their first appearance."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for samples in rounds:
        for sample in samples:
            groups.setdefault((sample.target, sample.size), []).append(sample)
    return tuple(row_of(group) for _, group in sorted(groups.items()))


def row_of(samples: Sequence[Sample]) -> ServiceRow:
    """One row, of all loops of a service with one size of picture."""
    closed = [sample for sample in samples if sample.share is None]
    rates = [rate_of(sample) for sample in closed]
    waits = sorted(ms for sample in closed for ms in sample.outcome.latencies_ms)
    shares = sorted({sample.share for sample in samples if sample.share is not None})
    spent = [s.cpu_ms_per_answer for s in closed if s.cpu_ms_per_answer is not None]
    shared = [s.memory_bytes["pss"] for s in closed if "pss" in s.memory_bytes]
    return ServiceRow(
        target=closed[0].target,
        size=closed[0].size,
        requests_per_s=statistics.median(rates),
        rounds_per_s=tuple(rates),
        variation_percent=variation_percent(rates) if min(rates) else None,
        latency_p50_ms=percentile(waits, 50),
        latency_p99_ms=percentile(waits, 99),
        busy=sum(sample.outcome.busy for sample in samples),
        failed=sum(sample.outcome.errors.total() for sample in samples),
        silent=sum(sample.outcome.silent for sample in samples),
        cpu_ms_per_answer=statistics.median(spent) if spent else None,
        generator_share=statistics.median(s.outcome.cpu_s / s.outcome.seconds for s in closed),
        start_s=statistics.median(sample.start_s for sample in closed),
        rss_bytes=round(statistics.median(sample.memory_bytes["rss"] for sample in closed)),
        pss_bytes=round(statistics.median(shared)) if shared else None,
        steps=tuple(step_of([s for s in samples if s.share == share], share) for share in shares),
    )


def step_of(samples: Sequence[Sample], share: float) -> Step:
    """An open loop of all rounds; what was not answered was waited for in vain."""
    outcomes = [sample.outcome for sample in samples]
    answered = sum(len(outcome.latencies_ms) for outcome in outcomes)
    busy = sum(outcome.busy for outcome in outcomes)
    failed = sum(outcome.errors.total() for outcome in outcomes)
    lost = sum(outcome.silent + outcome.unsent for outcome in outcomes)
    due = answered + busy + failed + lost
    waits = sorted(ms for outcome in outcomes for ms in outcome.latencies_ms)
    waits += [math.inf] * (due - answered)
    p50, p99 = (_finite(percentile(waits, percent)) for percent in (50, 99))
    return Step(
        share=share,
        rate_per_s=statistics.median(sample.rate_per_s or 0.0 for sample in samples),
        answered_percent=100 * answered / due if due else 0.0,
        busy=busy,
        failed=failed,
        lost=lost,
        latency_p50_ms=p50,
        latency_p99_ms=p99,
    )


def ratios(rounds: Rounds) -> dict[str, dict[str, float]]:
    """Rates of our services over those of others in the same round, medians over rounds."""
    found: dict[str, dict[str, list[float]]] = {}
    for samples in rounds:
        closed = [sample for sample in samples if sample.share is None]
        for ours in (sample for sample in closed if sample.target.startswith(OURS)):
            for other in closed:
                is_opponent = not other.target.startswith(OURS) and other.size == ours.size
                if is_opponent and rate_of(other):
                    name = f"{ours.target} over {other.target}"
                    by_name = found.setdefault(ours.size, {})
                    by_name.setdefault(name, []).append(rate_of(ours) / rate_of(other))
    return {
        size: {name: statistics.median(values) for name, values in by_name.items()}
        for size, by_name in found.items()
    }


def medians(records: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of tables with the same keys, the median of each value."""
    return {
        size: {name: statistics.median(r[size][name] for r in records) for name in row}
        for size, row in records[0].items()
    }


def kill_row(target: str, size: str, outcome: Outcome, before: int, after: int) -> Kill:
    """What became of the requests when a worker was killed.

    Args:
        before: Processes of the service until then.
        after: When the load was over.
    """
    errors = outcome.errors
    known = errors["closed"] + errors["refused"]
    return Kill(
        target=target,
        size=size,
        answered=outcome.answered,
        busy=outcome.busy,
        closed=errors["closed"],
        refused=errors["refused"],
        other=errors.total() - known,
        silent=outcome.silent,
        processes_before=before,
        processes_after=after,
    )


def rate_of(sample: Sample) -> float:
    """Answers per second while load was on."""
    return len(sample.outcome.latencies_ms) / float(sample.outcome.seconds)


def slope_per_s(looks: Iterable[tuple[float, float]]) -> float:
    """Least squares' slope of values over seconds; 0 of fewer than two."""
    moments, values = zip(*looks, strict=True)
    if len(set(moments)) < 2:
        return 0.0
    return float(statistics.linear_regression(moments, values).slope)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

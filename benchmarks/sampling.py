"""What a sample of latencies says: percentiles with intervals, and whether rounds agree.

An interval of a percentile runs between two order statistics that are chosen by the binomial
distribution, so it holds for any distribution of latencies, as far as calls are independent of each
other; variation between rounds shows where they are not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

PERCENTS = (50, 90, 99)
CONFIDENCE = 0.95
MOST_VARIATION = 5.0  # percent between rounds, above which a row has a warning


def percentile(ascending: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` % of all do not exceed (nearest rank).

    None where there are too few for an interval, see `interval_ranks`.
    """
    if interval_ranks(len(ascending), percent) is None:
        return None
    return ascending[-(-len(ascending) * percent // 100) - 1]  # rank rounded up, in integers


def interval(ascending: Sequence[float], percent: int) -> tuple[float, float] | None:
    """Values that the true percentile lies between with 95 % confidence; None for too few."""
    ranks = interval_ranks(len(ascending), percent)
    return None if ranks is None else (ascending[ranks[0] - 1], ascending[ranks[1] - 1])


@lru_cache(maxsize=64)
def interval_ranks(count: int, percent: int) -> tuple[int, int] | None:
    """Ranks, from 1, of the order statistics that enclose a percentile with 95 % confidence.

    The number B of values at or below the true percentile is binomial (count, percent / 100). Rank
    `low` is the largest with P(B < low) <= 2.5 %, `high` the smallest with P(B >= high) <= 2.5 %.
    None if there is no such rank: then the true percentile may well be beyond all that was seen.
    p50 takes 6 values, p90 36, p99 368.
    """
    if count == 0:
        return None
    share, tail = percent / 100, (1 - CONFIDENCE) / 2
    below = np.arange(count)
    steps = np.log((count - below) / (below + 1)) + np.log(share / (1 - share))
    logs = count * np.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    at_most = np.cumsum(np.exp(logs))  # P(B <= k), k from 0
    low = int(np.searchsorted(at_most, tail, side="right"))
    high = int(np.searchsorted(at_most, 1 - tail, side="left")) + 1
    return (low, high) if low >= 1 and high <= count else None


def needed(percent: int) -> int:
    """Values that a percentile takes."""
    return next(n for n in range(1, 10_000) if interval_ranks(n, percent) is not None)


def variation_percent(rounds: Sequence[float]) -> float | None:
    """Range of the rounds in percent of their median; None for a single round."""
    if len(rounds) < 2:
        return None
    return 100 * (max(rounds) - min(rounds)) / statistics.median(rounds)

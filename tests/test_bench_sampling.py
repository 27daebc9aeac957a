"""What a sample says: percentiles and their intervals, against arithmetic by hand."""

import math
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest

from distill.benchmarks.sampling import (
    interval,
    interval_ranks,
    needed,
    percentile,
    variation_percent,
)


def at_most(count: int, percent: int) -> list[Fraction]:
    """P(B <= k) of a binomial B for k from 0 to the count, exactly."""
    share = Fraction(percent, 100)
    each = (math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1))
    return list(accumulate(each))


def test_an_interval_by_hand() -> None:
    """The median of 6 values: P(B < 1) = 1/64 = 1.6 % and P(B >= 6) = 1/64, P(B < 2) = 7/64.

    So the interval runs from the first to the sixth; of 5 values, P(B < 1) = 1/32 = 3.1 %.
    """
    values = [10.0, 11.0, 12.0, 13.0, 14.0, 50.0]
    assert interval_ranks(6, 50) == (1, 6)
    assert interval(values, 50) == (10.0, 50.0)
    assert percentile(values, 50) == 12.0  # rank 6 * 0.5 = 3
    assert interval_ranks(5, 50) is None
    assert interval(values[:5], 50) is percentile(values[:5], 50) is None


@pytest.mark.parametrize("percent", [50, 90, 99])
@pytest.mark.parametrize("count", [6, 40, 101, 400, 731])
def test_ranks_are_the_tightest_that_hold(count: int, percent: int) -> None:
    tail = Fraction(25, 1000)
    ranks = interval_ranks(count, percent)
    below = at_most(count, percent)
    lows = [k for k in range(1, count + 1) if below[k - 1] <= tail]
    highs = [k for k in range(1, count + 1) if 1 - below[k - 1] <= tail]
    assert ranks == ((max(lows), min(highs)) if lows and highs else None)


def test_how_many_values_a_percentile_takes() -> None:
    """All of n values lie below the true p99 with 0.99^n: 0.0250 at 367, 0.0248 at 368."""
    assert 0.99**367 > 0.025 > 0.99**368
    assert 0.9**35 > 0.025 > 0.9**36
    assert [needed(percent) for percent in (50, 90, 99)] == [6, 36, 368]
    values = list(map(float, range(1, 368)))
    assert percentile(values, 99) is None
    assert percentile([*values, 368.0], 99) == 365  # 364.3, rounded up
    assert percentile([], 50) is None


def test_intervals_cover_the_truth() -> None:
    """Of 400 samples of 500 exponential values, 95 % at least enclose the true p90, ln 10."""
    rng = np.random.default_rng(0)
    found = [interval(sorted(rng.exponential(size=500).tolist()), 90) for _ in range(400)]
    enclosing = sum(pair is not None and pair[0] <= math.log(10) <= pair[1] for pair in found)
    assert 0.93 * 400 <= enclosing <= 400  # 95 % is 380, its standard deviation 4.4


def test_large_samples_do_not_underflow() -> None:
    low, high = interval_ranks(1_000_000, 99) or (0, 0)
    # Normal approximation: 990,000 +- 1.96 * sqrt(1e6 * 0.99 * 0.01) = 195
    assert abs(low - 989_805) <= 2
    assert abs(high - 990_196) <= 2


def test_variation_is_the_range_of_the_rounds() -> None:
    assert variation_percent([40.0, 38.0, 43.0]) == pytest.approx(12.5)  # 5 of 40
    assert variation_percent([40.0]) is None

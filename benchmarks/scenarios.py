"""Ways of asking a model, in MLPerf's words (Reddi et al., 2020, arXiv:1911.02549).

Single stream: one query after the other. Multi stream: several at once. Server: queries arrive at
random times, and the rate counts at which the 99th percentile stays under a bound. Offline: in
batches. Latencies are in ns on a clock that tests replace.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1_000_000_000
STABLE = 0.1  # relative change of the median latency below which a model is warm
MIN_CALLS = 10  # counted calls of a stream, unless one call takes all the time there is
MIN_QUERIES = 400  # of a server's trial: what a 99th percentile takes, and some
BOUNDS = 20  # a server's trial lasts this many latency bounds, so that a queue can build up
SPIN_NS = 200_000  # a sleeping thread wakes up about this late
STEPS = 6  # of the search for a rate: to 1.6 % of the capacity


class Clock(Protocol):
    """Time in ns."""

    def now(self) -> int:
        """Time since some moment."""

    def wait_until(self, moment: int) -> None:
        """Returns at that moment, or at once if it has passed."""


class WallClock:
    """The machine's own clock; it sleeps, and spins at the end of a wait."""

    def now(self) -> int:
        """Time since some moment."""
        return time.perf_counter_ns()

    def wait_until(self, moment: int) -> None:
        """Returns at that moment, or at once if it has passed."""
        left = moment - time.perf_counter_ns()
        if left > SPIN_NS:
            time.sleep((left - SPIN_NS) / NS_PER_S)
        while time.perf_counter_ns() < moment:
            pass


@dataclass(frozen=True)
class Query:
    """What is timed: `call` on the next of `inputs`, of which each holds `batch_size` images."""

    call: Callable[[Any], object]
    inputs: Iterator[Any]
    batch_size: int = 1


@dataclass(frozen=True)
class Outcome:
    """One round of one scenario.

    Attributes:
        latencies_ns: Of each counted query.
        images_per_s: By the median latency; in `multi_stream` of all streams together, in
            `server` the highest rate.
    """

    latencies_ns: list[int]
    images_per_s: float


def warm_up(query: Query, seconds: float, clock: Clock) -> float:
    """Calls until the median latency of a window is that of the window before, or time is up.

    A window is a fifth of `seconds`, and at least 3 calls. A first call that takes all the time is
    warm-up enough.

    Returns:
        The median latency in ns of the last window.
    """
    spent = before = float(_timed_calls(query, 0, 1, clock)[0])
    while spent < seconds * NS_PER_S:
        window = _timed_calls(query, seconds / 5, 3, clock)
        spent += sum(window)
        typical = statistics.median(window)
        if abs(typical - before) <= STABLE * before:
            return typical
        before = typical
    return before


def stream(query: Query, seconds: float, clock: Clock) -> Outcome:
    """One query after the other, for `seconds` after a warm-up of as long at most.

    At least 10 are counted, but only one if a single call takes longer than `seconds`. Serves
    `single_stream`, and `offline` with a batch per query.
    """
    slow = warm_up(query, seconds, clock) >= seconds * NS_PER_S
    latencies = _timed_calls(query, seconds, 1 if slow else MIN_CALLS, clock)
    return Outcome(latencies, query.batch_size * NS_PER_S / statistics.median(latencies))


def multi_stream(queries: Sequence[Query], seconds: float, clock: Clock) -> Outcome:
    """As many streams at once as there are queries, a thread each, after one warm-up."""
    warm_up(queries[0], seconds, clock)
    together = Barrier(len(queries))

    def run_stream(query: Query) -> tuple[list[int], int, int]:
        together.wait()
        start = clock.now()
        return _timed_calls(query, seconds, MIN_CALLS, clock), start, clock.now()

    with ThreadPoolExecutor(len(queries)) as pool:
        done = list(pool.map(run_stream, queries))
    latencies = [latency for timed, _, _ in done for latency in timed]
    elapsed = max(end for _, _, end in done) - min(start for _, start, _ in done)
    return Outcome(latencies, len(latencies) * NS_PER_S / elapsed)


def server(
    query: Query, seconds: float, bound_ms: float, seed: int, clock: Clock
) -> Outcome | None:
    """Queries at random times, at the highest rate that keeps the bound.

    One query is answered at a time, in the order of arrival, and its latency counts from its
    arrival. A trial lasts `seconds`, 20 bounds, or 400 queries, whichever is longest. The seed
    fixes the arrivals, which are the same but for the rate in all trials.

    Returns:
        None if the bound cannot be kept at any rate that was tried.
    """
    bound_ns = bound_ms * 1_000_000
    typical = warm_up(query, seconds, clock)
    if typical > bound_ns:
        return None
    shortest = max(seconds, BOUNDS * bound_ns / NS_PER_S)

    def trial(rate_per_s: float) -> list[int] | None:
        count = max(MIN_QUERIES, round(rate_per_s * shortest))
        return serve(query, arrivals(rate_per_s, count, seed), bound_ns, clock)

    return highest_rate(trial, NS_PER_S / typical)


def highest_rate(
    trial: Callable[[float], list[int] | None], capacity_per_s: float
) -> Outcome | None:
    """Halves the range from 0 to the capacity, keeping the highest rate whose trial succeeds."""
    low, high, best = 0.0, capacity_per_s, None
    for _ in range(STEPS):
        rate = (low + high) / 2
        latencies = trial(rate)
        if latencies is None:
            high = rate
        else:
            low, best = rate, Outcome(latencies, rate)
    return best


def arrivals(rate_per_s: float, count: int, seed: int) -> NDArray[np.int64]:
    """Times in ns of a Poisson process, `(count,)`, ascending."""
    gaps = np.random.default_rng(seed).exponential(NS_PER_S / rate_per_s, count)
    return np.cumsum(gaps).round().astype(np.int64)


def serve(
    query: Query, schedule: NDArray[np.int64], bound_ns: float, clock: Clock
) -> list[int] | None:
    """Latencies of queries that arrive as scheduled.

    None as soon as more than 1 % took longer than the bound: their 99th percentile is above it.
    """
    start, late, latencies = clock.now(), 0, list[int]()
    for due in schedule.tolist():
        clock.wait_until(start + due)
        query.call(next(query.inputs))
        latencies.append(clock.now() - start - due)
        late += latencies[-1] > bound_ns
        if 100 * late > len(schedule):
            return None
    return latencies


def _timed_calls(query: Query, seconds: float, min_calls: int, clock: Clock) -> list[int]:
    budget, spent, latencies = round(seconds * NS_PER_S), 0, list[int]()
    while spent < budget or len(latencies) < min_calls:
        argument = next(query.inputs)
        start = clock.now()
        query.call(argument)
        latencies.append(clock.now() - start)
        spent += latencies[-1]
    return latencies

"""How models are asked, under a clock that only fake models move."""

from collections.abc import Callable
from itertools import count
from threading import Barrier, get_ident

import numpy as np
import pytest

from distill.benchmarks.scenarios import (
    STEPS,
    Query,
    arrivals,
    highest_rate,
    multi_stream,
    serve,
    server,
    stream,
    warm_up,
)

MS = 1_000_000


class FakeClock:
    """Time that passes when a query is answered, or when it is waited for."""

    def __init__(self) -> None:
        self.time = 0

    def now(self) -> int:
        return self.time

    def wait_until(self, moment: int) -> None:
        self.time = max(self.time, moment)

    def query(self, latency_ms: Callable[[int], float], batch_size: int = 1) -> Query:
        """A model whose n-th call, from 0, takes `latency_ms(n)`."""

        def call(number: int) -> None:
            self.time += round(latency_ms(number) * MS)

        return Query(call, count(), batch_size)


def calls_made(query: Query) -> int:
    return int(next(query.inputs))


def test_warm_up_is_not_counted() -> None:
    """5 calls of 500 ms, then 25 ms: the slow ones must not reach any statistic.

    The first call; windows of 10 s / 5 = 2 s: 4 slow calls, whose median is that of the first.
    """
    clock = FakeClock()
    query = clock.query(lambda n: 500 if n < 5 else 25)
    assert warm_up(query, 10, clock) == 500 * MS
    assert calls_made(query) == 1 + 4


def test_warm_up_ends_when_windows_agree() -> None:
    """Calls of 90, 25, 25, ... ms, windows of 1 s: 40 of 25 differ from 90, 40 more do not."""
    clock = FakeClock()
    query = clock.query(lambda n: 90 if n == 0 else 25)
    outcome = stream(query, 5, clock)
    assert set(outcome.latencies_ns) == {25 * MS}
    assert len(outcome.latencies_ns) == 200  # 5 s
    assert outcome.images_per_s == 40
    assert calls_made(query) == 1 + 40 + 40 + 200


def test_warm_up_gives_up_on_a_model_that_never_settles() -> None:
    """Each call takes twice as long as the last, so no two windows agree.

    1; windows of 150 ms: 2 + ... + 128 = 254, 7 calls; 256, 512, 1024, past 750 ms.
    """
    clock = FakeClock()
    query = clock.query(lambda n: 2**n)
    warm_up(query, 0.75, clock)
    assert calls_made(query) == 1 + 7 + 3


@pytest.mark.parametrize(
    ("latency_ms", "counted"), [(1, 250), (25, 10), (100, 10), (250, 1), (4000, 1)]
)
def test_a_round_is_ten_calls_unless_one_call_is_longer(latency_ms: int, counted: int) -> None:
    """Of 250 ms."""
    clock = FakeClock()
    outcome = stream(clock.query(lambda n: latency_ms), 0.25, clock)
    assert outcome.latencies_ns == [latency_ms * MS] * counted
    assert outcome.images_per_s == pytest.approx(1000 / latency_ms)


def test_a_batch_counts_all_its_images() -> None:
    clock = FakeClock()
    assert stream(clock.query(lambda n: 50, batch_size=8), 0.5, clock).images_per_s == 160


def test_streams_are_asked_at_once() -> None:
    """Each call waits until all three streams are in one: it would never return otherwise."""
    together, threads = Barrier(3, timeout=60), set()
    clock = FakeClock()

    def call(number: int) -> None:
        if number >= 0:  # the warm-up asks alone
            threads.add(get_ident())
            together.wait()
        clock.time += 100 * MS

    first = Query(call, iter([-1, *range(10)]))
    others = [Query(call, iter(range(10))) for _ in range(2)]
    outcome = multi_stream([first, *others], 0.0, clock)
    assert len(threads) == 3
    assert len(outcome.latencies_ns) == 30
    assert outcome.images_per_s > 0


def test_arrivals_are_a_poisson_process_of_the_seed() -> None:
    first, again, other = (arrivals(200.0, 5000, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    gaps = np.diff(first) / 1e9
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)  # standard error 1.4 %
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential: they are equal
    assert np.allclose(arrivals(400.0, 5000, 7), first / 2, atol=1)  # the same but for the rate


def test_latency_counts_from_the_arrival() -> None:
    """Arrivals at 0, 4 and 30 ms, 10 ms each: the second waits for 6 ms, the third for none."""
    clock = FakeClock()
    clock.time = 123 * MS
    schedule = np.array([0, 4, 30]) * MS
    found = serve(clock.query(lambda n: 10), schedule, 16 * MS, clock)
    assert found == [10 * MS, 16 * MS, 10 * MS]
    assert clock.time == (123 + 40) * MS


def test_one_late_query_in_a_hundred_is_allowed() -> None:
    schedule = np.arange(200) * 100 * MS

    def late(which: set[int]) -> bool:
        clock = FakeClock()
        query = clock.query(lambda n: 50 if n in which else 10)
        return serve(query, schedule, 20 * MS, clock) is None

    assert not late({3, 150})
    assert late({3, 50, 150})


def waiting_p99_ms(service_ms: float, rate: float, count: int, seed: int) -> float:
    """The 99th percentile of a queue of constant service time, by Lindley's recursion."""
    due = arrivals(rate, count, seed) / MS
    done, latencies = 0.0, []
    for moment in due:
        done = max(done, moment) + service_ms
        latencies.append(done - moment)
    return sorted(latencies)[-(-count * 99 // 100) - 1]


def test_the_highest_rate_that_keeps_the_bound() -> None:
    """10 ms a query, 30 ms of bound: one step of the search more breaks it."""
    clock = FakeClock()
    outcome = server(clock.query(lambda n: 10), 2.0, 30.0, seed=5, clock=clock)
    assert outcome is not None
    rate, step = outcome.images_per_s, 100 / 2**STEPS  # the capacity is 100 a second

    def p99(rate_per_s: float) -> float:
        return waiting_p99_ms(10, rate_per_s, max(400, round(rate_per_s * 2)), 5)

    assert p99(rate) <= 30 < p99(rate + step)
    assert 20 < rate < 60
    assert max(outcome.latencies_ns) >= 10 * MS
    assert len(outcome.latencies_ns) == 400


def test_a_bound_that_a_lone_query_breaks() -> None:
    clock = FakeClock()
    assert server(clock.query(lambda n: 20), 0.5, 15.0, 0, clock) is None


def test_the_search_halves_between_nothing_and_the_capacity() -> None:
    tried: list[float] = []

    def trial(rate: float) -> list[int] | None:
        tried.append(rate)
        return [1] if rate <= 30 else None

    outcome = highest_rate(trial, 64.0)
    assert tried == [32, 16, 24, 28, 30, 31]
    assert outcome is not None
    assert outcome.images_per_s == 30
    assert highest_rate(lambda rate: None, 64.0) is None

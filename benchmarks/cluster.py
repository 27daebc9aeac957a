"""How long many workers take for the teacher's answers to many images, on paper.

Claim: throughput grows with the workers to within 5 %, though some are slow and some are taken
away; what is done twice is a fraction of a percent, and the end drags on by a lease and a shard.
Conditions: a discrete simulation of `teaching.claims` with `cache_build.claimed`. A worker takes
shards in the order of its own; `seconds` of a shard vary by `spread` (of a logarithm), a tenth of
the workers are half as fast; a worker is taken away after `mtbf_s` on average, whatever it was
at, and comes back `restart_s` later with what it had lost, which somebody who finds nothing else
takes over a lease after they first saw it. Storage and network cost nothing here.
Command: `python -m distill.benchmarks.cluster [--workers 1,8,64,512] [--images 100000000]`
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

from distill.teaching.cache import SHARD_ROWS
from distill.teaching.claims import BEATS, LEASE_S

SLOW, SLOWER = 0.1, 2.0  # share of workers, and what their shards take longer by


@dataclass(frozen=True)
class Cluster:
    """Workers, and what they do.

    Attributes:
        seconds: Of a shard, on average, by a usual worker.
        spread: Standard deviation of the logarithm of a shard's seconds.
        mtbf_s: Mean time until a worker is taken away; 0 for never.
        restart_s: From then until it asks for work again.
    """

    workers: int
    shards: int
    seconds: float
    spread: float = 0.2
    mtbf_s: float = 7200.0
    restart_s: float = 180.0
    lease_s: float = LEASE_S
    seed: int = 0


@dataclass(frozen=True)
class Course:
    """What came of it.

    Attributes:
        hours: Until all shards are there.
        efficiency: Share of what these workers would do if nothing were lost, in percent.
        wasted: Work that was lost or done twice, in percent of all that was done.
        tail_s: From 99 of 100 shards to the last one.
        failures: Workers that were taken away.
    """

    workers: int
    hours: float
    efficiency: float
    wasted: float
    tail_s: float
    failures: int


def simulate(cluster: Cluster) -> Course:
    """Runs a cluster to its end; the same seed gives the same course."""
    rng = np.random.default_rng(cluster.seed)
    pace = np.where(rng.random(cluster.workers) < SLOW, SLOWER, 1.0)
    unclaimed, abandoned = deque(range(cluster.shards)), dict[int, float | None]()
    done, ends, wasted, spent, failures = set[int](), list[float](), 0.0, 0.0, 0
    dies = [_life(cluster, rng) for _ in range(cluster.workers)]
    events = [(0.0, worker, -1) for worker in range(cluster.workers)]  # time, who, finished shard
    heapq.heapify(events)
    while len(done) < cluster.shards:
        now, worker, shard = heapq.heappop(events)
        if shard >= 0:
            done.add(shard)
            ends.append(now)
        shard = _next(unclaimed, abandoned, now, cluster.lease_s)
        if shard < 0:
            heapq.heappush(events, (now + cluster.lease_s / BEATS, worker, -1))
            continue
        takes = cluster.seconds * pace[worker] * float(np.exp(cluster.spread * rng.normal()))
        if now + takes > dies[worker]:
            lost = max(0.0, dies[worker] - now)
            wasted, spent, failures = wasted + lost, spent + lost, failures + 1
            abandoned[shard] = None
            back = max(now, dies[worker]) + cluster.restart_s
            dies[worker] = back + _life(cluster, rng)
            heapq.heappush(events, (back, worker, -1))
            continue
        spent += takes
        heapq.heappush(events, (now + takes, worker, shard))
    mean = cluster.seconds * float(np.exp(cluster.spread**2 / 2.0))
    ideal = cluster.shards * mean / float((1.0 / pace).sum())
    return Course(
        workers=cluster.workers,
        hours=round(ends[-1] / 3600.0, 3),
        efficiency=round(100.0 * ideal / ends[-1], 2),
        wasted=round(100.0 * wasted / spent, 3),
        tail_s=round(ends[-1] - ends[int(0.99 * (len(ends) - 1))], 1),
        failures=failures,
    )


def _life(cluster: Cluster, rng: np.random.Generator) -> float:
    return float(rng.exponential(cluster.mtbf_s)) if cluster.mtbf_s else float("inf")


def _next(
    unclaimed: deque[int], abandoned: dict[int, float | None], now: float, lease_s: float
) -> int:
    """The shard that a worker takes; -1 for none. Claims of the dead are seen when nothing else is
    left, and waited for."""
    if unclaimed:
        return unclaimed.popleft()
    for shard, seen in abandoned.items():
        if seen is None:
            abandoned[shard] = now
        elif now - seen >= lease_s:
            del abandoned[shard]
            return shard
    return -1


def main(arguments: list[str]) -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m distill.benchmarks.cluster")
    parser.add_argument("--workers", default="1,2,4,8,64,512", help="numbers of workers")
    parser.add_argument("--images", type=int, default=100_000_000)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--images-per-s", type=float, default=1000.0, help="of a worker")
    parser.add_argument("--mtbf-s", type=float, default=7200.0)
    options = parser.parse_args(arguments)
    shards = -(-options.images // SHARD_ROWS) * options.views
    seconds = SHARD_ROWS / options.images_per_s
    courses = [
        simulate(Cluster(int(count), shards, seconds, mtbf_s=options.mtbf_s))
        for count in options.workers.split(",")
    ]
    rows = [asdict(course) for course in courses]
    print(json.dumps({"shards": shards, "seconds": seconds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

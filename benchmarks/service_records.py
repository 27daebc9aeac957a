"""What the load test of services reports, as its JSON has it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from distill.benchmarks.service_load import Outcome
from distill.files import JsonModel

Seconds = Annotated[float, Field(gt=0)]


class Plan(JsonModel):
    """What is asked of every service.

    Attributes:
        seconds: Of one loop.
        warm_up_s: Of a closed loop before, whose answers are not counted.
        clients: Of the closed loops; open ones have twice as many connections.
        shares: Rates of the open loops, as shares of the closed loop's in the same round.
        kill: Whether a worker is killed under load, in the end.
        soak_s: Length of the soak; 0 for none.
    """

    rounds: Annotated[int, Field(ge=1)] = 3
    seconds: Seconds = 5.0
    warm_up_s: Seconds = 2.0
    clients: Annotated[int, Field(ge=1)] = 50
    shares: tuple[Seconds, ...] = (0.5, 0.8, 1.0, 1.3)
    kill: bool = False
    soak_s: Annotated[float, Field(ge=0)] = 0.0


class Sample(JsonModel):
    """One loop of one round, as it was measured.

    Attributes:
        share, rate_per_s: Of an open loop.
        cpu_ms_per_answer: Processor time of the service; None where nothing was answered.
        memory_bytes: Right after it, see `Running.memory_bytes`.
    """

    target: str
    size: str
    start_s: float
    memory_bytes: dict[str, int]
    outcome: Outcome
    share: float | None = None
    rate_per_s: float | None = None
    cpu_ms_per_answer: float | None = None


class Step(JsonModel):
    """An open loop over all rounds.

    Attributes:
        rate_per_s: Of requests that fell due, median over rounds.
        answered_percent: Of all that fell due.
        latency_p99_ms: Over all that fell due, counted from then; None where more than one in a
            hundred was not answered, or they are too few. Likewise `p50`.
        lost: Fell due and were never sent, or sent and never answered.
    """

    share: float
    rate_per_s: float
    answered_percent: float
    busy: int
    failed: int
    lost: int
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None


class ServiceRow(JsonModel):
    """A service and a size of picture, over all rounds.

    Attributes:
        requests_per_s: Answered with 200 in the closed loop, median over rounds.
        latency_p50_ms, latency_p99_ms: Of the closed loop.
        busy, failed, silent: Numbers of 503s, of other errors, and of requests that nothing came
            of, in all loops.
        cpu_ms_per_answer: Processor time of all its processes, of the closed loop.
        generator_share: Of one core, that the generator took in the closed loop.
        rss_bytes, pss_bytes: Of all its processes after the closed loop; what they share counts
            once for each in the one, once in the other.
    """

    target: str
    size: str
    requests_per_s: float
    rounds_per_s: tuple[float, ...]
    start_s: float
    rss_bytes: int
    busy: int
    failed: int
    silent: int
    generator_share: float
    steps: tuple[Step, ...]
    variation_percent: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    cpu_ms_per_answer: float | None = None
    pss_bytes: int | None = None


class Kill(JsonModel):
    """A worker killed in the middle of a closed loop.

    Attributes:
        closed: Requests whose connection ended before the answer did: their clients know.
        silent: Neither answered nor cut off.
        processes_before, processes_after: Of the service, when the load was over.
    """

    target: str
    size: str
    answered: int
    busy: int
    closed: int
    refused: int
    other: int
    silent: int
    processes_before: int
    processes_after: int


class Soak(JsonModel):
    """Memory of a service that was asked for long.

    Attributes:
        second_half_bytes_per_minute: Slope of a line through what was seen in the second half.
    """

    target: str
    seconds: float
    rate_per_s: float
    answered: int
    failed: int
    busy: int
    silent: int
    start_bytes: int
    middle_bytes: int
    end_bytes: int
    most_bytes: int
    second_half_bytes_per_minute: float


class Picture(JsonModel):
    """What services are asked about: the first of several of one size."""

    num_bytes: int
    width: int
    height: int
    quality: int


class ServiceReport(JsonModel):
    """One run.

    Attributes:
        bare: Images per second without a service, by size of picture and then by what was run, see
            `service_bare`; medians over rounds.
        ratios: Requests per second of each service of ours over each opponent in the same round, by
            size and then `OURS over OPPONENT`; medians over rounds.
        pictures: By size.
    """

    rows: tuple[ServiceRow, ...]
    bare: dict[str, dict[str, float]]
    ratios: dict[str, dict[str, float]]
    kills: tuple[Kill, ...]
    soaks: tuple[Soak, ...]
    pictures: dict[str, Picture]
    warnings: tuple[str, ...]
    plan: Plan
    env: dict[str, Any]

"""The load generator: a process of its own, cheap, as it shares the cores with what it asks.

Requests are bytes made beforehand, sent over keep-alive connections, one at a time on each. In a
`closed` loop every connection asks again as soon as it is answered: that finds the highest rate. In
an `open` one requests fall due at random times (Poisson arrivals by a seed) whatever the service
does, and a latency counts from when a request was due, so that a service which stalls is charged
for all that should have been asked meanwhile (coordinated omission). Standard library only.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

PAUSE_S = 0.05  # after a 503 or a refused connection, before a closed loop asks again
END = b"\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """What to ask, and how.

    Attributes:
        requests: Files, each a whole HTTP request; asked in turn.
        connections: Of a closed loop the clients; of an open one the most requests on their way.
        rate_per_s: Of an open loop.
        grace_s: How long answers are waited for when nothing more is asked.
    """

    port: int
    requests: tuple[str, ...]
    mode: Literal["closed", "open"]
    connections: int
    seconds: float
    rate_per_s: float = 0.0
    seed: int = 0
    grace_s: float = 5.0


@dataclass
class Outcome:
    """What became of the requests; each is counted once.

    Attributes:
        latencies_ms: Of those answered with 200 while load was on, ascending.
        answered: Number of 200s, those of the time of grace included.
        busy: Answers with status 503.
        errors: Other statuses, `closed` for connections that ended before the answer did, and
            `refused` for such as could not be made; by kind.
        silent: Sent, and neither answered nor cut off when the time of grace was over.
        unsent: Fell due in an open loop, and found no free connection until then.
        seconds: While load was on.
        cpu_s: Of processor time that the generator itself took.
    """

    latencies_ms: list[float] = field(default_factory=list)
    answered: int = 0
    busy: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    silent: int = 0
    unsent: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request on its way at most."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[int] | None = None
        self.answer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is called when it is open."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Sends a request; the result is the status of its answer."""
        assert self.transport is not None
        self.answer.clear()
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.waiter

    def data_received(self, data: bytes) -> None:
        """Collects an answer until it is whole."""
        self.answer += data
        if self.waiter and not self.waiter.done() and is_whole(self.answer):
            self.waiter.set_result(int(self.answer[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a request whose answer is not whole."""
        self.transport = None
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(ConnectionResetError("closed before the answer was whole"))

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent on it."""
        if self.transport is None or self.transport.is_closing():
            return False
        head = bytes(self.answer.partition(END)[0]).lower()
        return b"\r\nconnection: close" not in head


def is_whole(answer: bytes | bytearray) -> bool:
    """Whether an HTTP answer has come to its end, by its length or its last chunk."""
    end = answer.find(END)
    if end < 0:
        return False
    head = bytes(answer[:end]).lower()
    _, found, rest = head.partition(b"\r\ncontent-length:")
    if found:
        return len(answer) >= end + len(END) + int(rest.partition(b"\r\n")[0])
    if b"\r\ntransfer-encoding: chunked" in head:
        return answer.endswith(b"\r\n0" + END)
    return False


class Client:
    """Asks one request after the other, on one connection as long as it is open."""

    def __init__(self, load: Load, outcome: Outcome, until: float) -> None:
        self.load, self.outcome, self.until = load, outcome, until
        self.connection: Connection | None = None
        self.asking = False

    async def ask(self, request: bytes, due: float) -> bool:
        """Asks, and counts what came of it; tells whether that was a 200.

        Args:
            due: When its latency begins, by the loop's clock.
        """
        loop = asyncio.get_running_loop()
        try:
            if self.connection is None or not self.connection.is_open:
                self.connection = await connect(self.load.port)
        except OSError:
            self.outcome.errors["refused"] += 1
            return False
        self.asking = True
        try:
            status = await self.connection.ask(request)
        except OSError:
            self.outcome.errors["closed"] += 1
            return False
        finally:
            self.asking = False
        now = loop.time()
        if status == 503:
            self.outcome.busy += 1
        elif status != 200:
            self.outcome.errors[str(status)] += 1
        else:
            self.outcome.answered += 1
            if self.load.mode == "open" or now <= self.until:
                self.outcome.latencies_ms.append(1e3 * (now - due))
        return status == 200


async def connect(port: int) -> Connection:
    """A connection to a port of this machine."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


async def closed_loop(clients: Sequence[Client], requests: Iterator[bytes], until: float) -> None:
    """Every client asks again as soon as it is answered."""
    loop = asyncio.get_running_loop()

    async def ask_on(client: Client) -> None:
        while loop.time() < until:
            if not await client.ask(next(requests), loop.time()):
                await asyncio.sleep(PAUSE_S)

    await finish([asyncio.create_task(ask_on(client)) for client in clients], until, clients)


async def open_loop(
    clients: Sequence[Client], requests: Iterator[bytes], start: float, until: float
) -> None:
    """Requests fall due at random times; those that find no free client wait for one."""
    load, loop = clients[0].load, asyncio.get_running_loop()
    due: asyncio.Queue[float] = asyncio.Queue()

    async def ask_when_due(client: Client) -> None:
        while True:
            moment = await due.get()
            await client.ask(next(requests), moment)
            due.task_done()

    async def let_fall_due() -> None:
        for moment in arrivals(load.rate_per_s, load.seconds, load.seed):
            if (wait := start + moment - loop.time()) > 0:
                await asyncio.sleep(wait)
            due.put_nowait(start + moment)
        await due.join()

    tasks = [asyncio.create_task(ask_when_due(client)) for client in clients]
    schedule = asyncio.create_task(let_fall_due())
    await finish([schedule], until, clients)
    clients[0].outcome.unsent = due.qsize()
    for task in tasks:
        task.cancel()


async def finish(
    tasks: Sequence[asyncio.Task[None]], until: float, clients: Sequence[Client]
) -> None:
    """Waits for tasks until the time of grace is over, and counts who is still waiting then."""
    load, now = clients[0].load, asyncio.get_running_loop().time()
    _, pending = await asyncio.wait(tasks, timeout=until - now + load.grace_s)
    if pending:
        clients[0].outcome.silent = sum(client.asking for client in clients)
    for task in pending:
        task.cancel()


def arrivals(rate_per_s: float, seconds: float, seed: int) -> Iterator[float]:
    """Seconds from the start at which requests fall due: exponential gaps, by a seed."""
    draw, moment = random.Random(seed).expovariate, 0.0
    while (moment := moment + draw(rate_per_s)) < seconds:
        yield moment


async def generate(load: Load) -> Outcome:
    """Puts a service under load and tells what came of it."""
    loop, outcome = asyncio.get_running_loop(), Outcome()
    requests = cycle([Path(file).read_bytes() for file in load.requests])
    start, cpu = loop.time(), time.process_time()
    until = start + load.seconds
    clients = [Client(load, outcome, until) for _ in range(load.connections)]
    if load.mode == "closed":
        await closed_loop(clients, requests, until)
    else:
        await open_loop(clients, requests, start, until)
    outcome.seconds = load.seconds
    outcome.cpu_s = time.process_time() - cpu
    outcome.latencies_ms = sorted(round(ms, 3) for ms in outcome.latencies_ms)
    return outcome


def main(arguments: list[str]) -> None:
    """Prints the outcome of the load that the command line has as JSON."""
    table: dict[str, Any] = json.loads(arguments[0])
    gc.disable()
    outcome = asyncio.run(generate(Load(**table)))
    print(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main(sys.argv[1:])

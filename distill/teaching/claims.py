"""Who works on what, among any number of workers that share a folder or a bucket and nothing else.

A claim is a file or an object that its owner keeps changing. Whoever wants one that has not changed
for its owner's lease, by their own clock and as long as they themselves have looked, makes the next
claim of that name, which only one of them can: so clocks may differ by minutes, and a worker that
was killed or cut off loses its work to another. Work is done twice at worst, by a slow owner and a
new one; that its result is published once is up to whoever publishes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator

from distill.buckets import Bucket, Folder
from distill.errors import DistillError

LEASE_S = 60.0
BEATS = 4  # in a lease
ENDING = ".claim"


class Claims:
    """The claims of one worker.

    Args:
        objects: That all workers share.
        lease_s: Seconds without a sign of life after which a claim of this worker is another's.
        now: A clock that runs evenly.

    Attributes:
        owner: Of this worker alone.
    """

    def __init__(
        self,
        objects: Bucket | Folder,
        lease_s: float = LEASE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.owner = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._objects, self._lease_s, self._now = objects, lease_s, now
        self._held: dict[str, int] = {}  # number of the claim that is ours, by name
        self._seen: dict[str, tuple[tuple[int, bytes], float]] = {}

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Holds the claim on a piece of work, which a thread keeps alive; gives whether it is ours.

        Args:
            name: Of the work, fit for a file.
        """
        if not self.take(name):
            yield False
            return
        ended = threading.Event()
        beating = threading.Thread(target=self._keep_alive, args=(name, ended), daemon=True)
        beating.start()
        try:
            yield True
        finally:
            ended.set()
            beating.join()
            self.release(name)

    def take(self, name: str) -> bool:
        """Whether the claim is ours now: nobody had it, or its owner has been silent for a lease.

        How long that is has to be seen: the first look at another's claim is never the last.
        """
        claim = self._latest(name)
        if claim is None:
            return self._create(name, 0)
        known, since = self._seen.get(name, (None, 0.0))
        if known != claim:
            self._seen[name] = (claim, self._now())
            return False
        return self._now() - since >= self._lease_of(claim[1]) and self._create(name, claim[0] + 1)

    def release(self, name: str) -> None:
        """Gives a claim back, with those that it took over."""
        number = self._held.pop(name)
        for earlier in sorted(self._numbers(name)):
            if earlier <= number:
                self._objects.remove(_object(name, earlier))

    def clear(self, begin: str, done: Container[str]) -> None:
        """Removes claims on what is done, which workers that were killed left behind.

        Args:
            begin: Of all their names.
            done: Names of the work.
        """
        for claim in self._objects.names(begin):
            if claim.removesuffix(ENDING).rpartition(".")[0] in done:
                self._objects.remove(claim)

    def beat(self, name: str, count: int) -> bool:
        """Changes a claim that is ours; whether it still is."""
        number = self._held[name]
        if max(self._numbers(name), default=-1) != number:
            return False
        self._objects.write(_object(name, number), self._content(count))
        return True

    def wait(self) -> None:
        """Lets time pass in which others may finish, or their claims run out."""
        time.sleep(self._lease_s / BEATS)

    def _numbers(self, name: str) -> list[int]:
        found = (n for n in self._objects.names(f"{name}.") if n.endswith(ENDING))
        return [int(n.removesuffix(ENDING).rpartition(".")[2]) for n in found]

    def _latest(self, name: str) -> tuple[int, bytes] | None:
        """Number and content of the claim that counts; None where there is none."""
        for number in sorted(self._numbers(name), reverse=True):
            content = self._objects.read(_object(name, number))
            if content is not None:  # or given back meanwhile
                return number, content
        return None

    def _keep_alive(self, name: str, ended: threading.Event) -> None:
        number = 1
        with contextlib.suppress(OSError, DistillError):  # out of reach: others will take over
            while not ended.wait(self._lease_s / BEATS) and self.beat(name, number):
                number += 1

    def _create(self, name: str, number: int) -> bool:
        """Makes a claim, unless there is one of that number."""
        if not self._objects.create(_object(name, number), self._content(0)):
            return False
        self._held[name] = number
        return True

    def _content(self, count: int) -> bytes:
        known = {"owner": self.owner, "beat": count, "lease_s": self._lease_s}
        return json.dumps(known).encode()

    def _lease_of(self, content: bytes) -> float:
        """The lease of a claim's owner; ours, where a kill left no more than the name."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return float(json.loads(content)["lease_s"])
        return self._lease_s


def _object(name: str, number: int) -> str:
    return f"{name}.{number}{ENDING}"

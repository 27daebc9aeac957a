"""Who works on what, among any number of workers that share a folder and nothing else.

A claim is a file that its owner keeps changing. Whoever wants one that has not changed for a lease,
by their own clock and as long as they themselves have looked, takes it over: so clocks may differ
by minutes, and a worker that was killed or cut off loses its work to another. Work is done twice
at worst; that its result is published once is up to whoever publishes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

LEASE_S = 60.0
BEATS = 4  # in a lease
ENDING = ".claim"


class Claims:
    """The claims of one worker.

    Args:
        folder: That all workers share; made where it is missing.
        lease_s: Seconds without a sign of life after which a claim is another's. All workers are
            to have the same.
        now: A clock that runs evenly.

    Attributes:
        owner: Of this worker alone.
    """

    def __init__(
        self, folder: Path, lease_s: float = LEASE_S, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.owner = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._folder, self._lease_s, self._now = folder, lease_s, now
        self._seen: dict[str, tuple[bytes, float]] = {}
        folder.mkdir(parents=True, exist_ok=True)

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
        file = self._file(name)
        if self._create(file):
            return True
        content = _content(file)
        if content is None:  # it was given back meanwhile
            return self._create(file)
        before = self._seen.get(name)
        if before is None or before[0] != content:
            self._seen[name] = (content, self._now())
            return False
        if self._now() - before[1] < self._lease_s:
            return False
        return self._take_over(file, content)

    def release(self, name: str) -> None:
        """Gives a claim back, unless it was taken over."""
        file = self._file(name)
        if self._is_ours(_content(file)):
            file.unlink(missing_ok=True)

    def beat(self, name: str, number: int) -> bool:
        """Changes a claim that is ours; whether it still is."""
        file = self._file(name)
        if not self._is_ours(_content(file)):
            return False
        temporary = self._written(number)
        temporary.replace(file)
        return True

    def wait(self) -> None:
        """Lets time pass in which others may finish, or their claims run out."""
        time.sleep(self._lease_s / BEATS)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}{ENDING}"

    def _keep_alive(self, name: str, ended: threading.Event) -> None:
        number = 1
        with contextlib.suppress(OSError):  # a folder out of reach: others will take over
            while not ended.wait(self._lease_s / BEATS) and self.beat(name, number):
                number += 1

    def _written(self, number: int) -> Path:
        """A claim's content, in a file that nobody looks at yet."""
        temporary = self._folder / f"{self.owner}-{threading.get_ident()}.tmp"
        temporary.write_text(json.dumps({"owner": self.owner, "beat": number}))
        return temporary

    def _create(self, file: Path) -> bool:
        """Makes a claim that there is not, with its content at once."""
        temporary = self._written(0)
        try:
            os.link(temporary, file)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _take_over(self, file: Path, expected: bytes) -> bool:
        """Puts a silent owner's claim aside, as one worker alone can, and makes one of ours."""
        aside = self._folder / f"{self.owner}-{uuid.uuid4().hex[:8]}.tmp"
        try:
            file.rename(aside)
        except FileNotFoundError:
            return False
        alive = _content(aside) != expected
        if alive:  # it changed at the last moment: it is its owner's still
            with contextlib.suppress(FileExistsError):
                os.link(aside, file)
        aside.unlink(missing_ok=True)
        return not alive and self._create(file)

    def _is_ours(self, content: bytes | None) -> bool:
        return content is not None and json.loads(content)["owner"] == self.owner


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None

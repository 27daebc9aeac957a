"""Several workers: forks of one process, which starts those anew that die."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import connection, get_context
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from distill.serve.logs import log
from distill.serve.server import open_models
from distill.serve.settings import Settings
from distill.serve.worker import signals_told, work

SOON_S = 10.0  # a worker that dies in this time after its start is started anew after a pause
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
MORE_GRACE_S = 5.0  # beyond that of a worker, before it is killed


@dataclass
class _Place:
    """A worker's place: its socket stays, its process changes.

    Attributes:
        started, due: When its process was started, and when the next one may be.
        deaths: In a row, each soon after a start.
    """

    listening: socket.socket
    process: Any = None
    started: float = 0.0
    due: float = 0.0
    deaths: int = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.is_alive()


class Supervisor:
    """Keeps workers going until it is told to end.

    Forks begin in milliseconds, as all is imported; each opens the models for itself, since
    threads of onnxruntime do not survive a fork.

    Args:
        sockets: One for each worker; they may be the same.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket]) -> None:
        self._settings = settings
        self._places = [_Place(one) for one in sockets]
        self._context = get_context("fork")
        self._ended_by = 0
        self._told, self._tell = os.pipe()  # wakes the loop on a signal
        self._alive, self._living = os.pipe()  # tells workers that the supervisor has died

    def run(self) -> int:
        """Runs until it is told to end; returns the signal that did."""
        with signals_told(self._on_signal):
            while not self._ended_by:
                self._fill()
                self._wait()
            self._end()
        return self._ended_by

    def _on_signal(self, number: int, frame: Any) -> None:
        self._ended_by = self._ended_by or number
        os.write(self._tell, b"!")

    def _fill(self) -> None:
        """Starts what is due, and marks what has died."""
        for place in self._places:
            if place.process is not None and not place.process.is_alive():
                self._bury(place)
            if place.process is None and time.monotonic() >= place.due:
                others = [one.listening for one in self._places]
                fork = (self._settings, place.listening, others, self._alive, self._living)
                place.process = self._context.Process(target=_work, args=fork, name="worker")
                place.process.start()
                place.started = time.monotonic()

    def _bury(self, place: _Place) -> None:
        now, died = time.monotonic(), place.process
        place.deaths = place.deaths + 1 if now - place.started < SOON_S else 0
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (place.deaths - 1)) if place.deaths else 0
        place.due, place.process = now + pause, None
        mark_process_dead(died.pid)  # type: ignore[no-untyped-call]
        fields = {"worker": died.pid, "exit_code": died.exitcode, "pause_s": pause}
        log(logging.ERROR, "a worker died and is started anew", **fields)

    def _wait(self) -> None:
        """Until a worker dies, one may be started, or a signal comes."""
        due = [place.due for place in self._places if place.process is None]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        sentinels = [one.process.sentinel for one in self._places if one.process is not None]
        connection.wait([*sentinels, self._told], timeout)

    def _end(self) -> None:
        """Lets workers finish what they accepted; kills those that do not come to an end."""
        for place in self._places:
            place.listening.close()
        running = [place.process for place in self._places if place.is_running]
        for process in running:
            process.terminate()
        until = time.monotonic() + self._settings.limits.grace_s + MORE_GRACE_S
        for process in running:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                log(logging.ERROR, "a worker did not end and is killed", worker=process.pid)
                process.kill()
                process.join()


def _work(
    settings: Settings,
    listening: socket.socket,
    sockets: Iterable[socket.socket],
    alive: int,
    living: int,
) -> None:
    """What a fork does: lets go of what belongs to others, and serves."""
    os.close(living)
    for other in sockets:
        if other is not listening:
            other.close()
    work(settings, open_models(settings), listening, alive)

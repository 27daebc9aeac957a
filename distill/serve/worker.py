"""One process that serves: uvicorn, told when to end by signals and by the end of its parent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from distill.runtime.predict import Predictor
from distill.serve.app import application
from distill.serve.faces import finder_of
from distill.serve.logs import log
from distill.serve.protocol import BoundedProtocol
from distill.serve.settings import Settings
from distill.serve.sockets import BACKLOG


def work(
    settings: Settings,
    predictors: dict[str, Predictor],
    listening: socket.socket,
    watched: int | None = None,
) -> int:
    """Serves in this process until it is told to end.

    Args:
        watched: The reading end of a pipe: when nobody can write to it any more, the supervisor
            has died, and this ends too.

    Returns:
        The signal that ended it, or 0.
    """
    limits = settings.limits
    BoundedProtocol.limits = limits
    config = uvicorn.Config(
        application(settings, predictors, finder_of(settings)),
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=limits.keep_alive_s,
        timeout_graceful_shutdown=limits.grace_s,
    )
    server = _Server(config, watched)
    server.run([listening])
    return server.ended_by


class _Server(uvicorn.Server):
    """Uvicorn's, but signals end it and nothing else: it would raise them again when it is done."""

    def __init__(self, config: uvicorn.Config, watched: int | None) -> None:
        super().__init__(config)
        self.ended_by = 0
        self._watched = watched

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._watched is not None:
            asyncio.get_running_loop().add_reader(self._watched, self._on_orphaned)
        log(logging.INFO, "ready")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log(logging.INFO, "ending", connections=len(self.server_state.connections))
        await super().shutdown(sockets)
        log(logging.INFO, "ended")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with signals_told(self.handle_exit):
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = self.ended_by or sig
        super().handle_exit(sig, frame)

    def _on_orphaned(self) -> None:
        assert self._watched is not None
        asyncio.get_running_loop().remove_reader(self._watched)
        self.should_exit = True


@contextlib.contextmanager
def signals_told(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Tells a handler of signals to end, for a while; one that is ignored stays ignored."""
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)

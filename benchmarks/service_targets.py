"""What is put under load: each service as its users start it, watched from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from distill.errors import RunStopped

START_S = 60.0  # to be ready
STOP_S = 20.0  # to finish what it has accepted, and end
POLL_S = 0.005


@dataclass(frozen=True)
class Setting:
    """What all services are given: the file, a worker per core, and how ours and LitServe start."""

    model: Path
    workers: int
    litserve: Path | None = None
    serve_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A service.

    Attributes:
        command: Of a setting and a port.
        path: Where pictures are sent.
        field: Of the form that a picture is sent in; None sends it as it is.
        ready: What answers 200 from when on it can be asked.
        kill: Whether a worker of it may be killed under load: it has others.
    """

    name: str
    command: Callable[[Setting, int], Sequence[str]]
    path: str = "/v1/predict"
    field: str | None = "image"
    ready: str = "/readyz"
    kill: bool = True


def _plain(setting: Setting, port: int, workers: int = 1) -> Sequence[str]:
    module = "distill.benchmarks.service_plain"
    return [sys.executable, "-m", module, str(setting.model), str(port), str(workers)]


def _plain_workers(setting: Setting, port: int) -> Sequence[str]:
    return _plain(setting, port, setting.workers)


def _litserve(setting: Setting, port: int) -> Sequence[str]:
    module = "distill.benchmarks.service_litserve"
    arguments = [str(setting.model), str(port), str(setting.workers)]
    return [str(setting.litserve), "-m", module, *arguments]


def _distill(setting: Setting, port: int) -> Sequence[str]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(setting.workers)]
    start = [sys.executable, "-m", "distill", "serve", str(setting.model)]
    return [*start, *where, *setting.serve_options]


TARGETS = {
    target.name: target
    for target in (
        Target("plain", _plain, "/predict", kill=False),
        Target("plain_workers", _plain_workers, "/predict"),
        Target("litserve", _litserve, "/predict", ready="/health"),
        Target("distill", _distill),
        Target("distill_raw", _distill, field=None, kill=False),
    )
}


class Running:
    """A service that is ready.

    Attributes:
        start_s: From the start of its process to the first 200 of `ready`.
    """

    def __init__(self, process: psutil.Process, port: int, start_s: float) -> None:
        self.process, self.port, self.start_s = process, port, start_s

    def processes(self) -> list[psutil.Process]:
        """All its processes, the first one first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def memory_bytes(self) -> dict[str, int]:
        """Of all processes: resident memory, `rss`, and where the system tells its share, `pss`.

        What processes share is in `rss` once for each, in `pss` once.
        """
        found = {"rss": 0}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                full = process.memory_full_info()
                found["rss"] += full.rss
                if hasattr(full, "pss"):
                    found["pss"] = found.get("pss", 0) + full.pss
        return found

    def cpu_s(self) -> float:
        """Processor time that its living processes have taken."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def busiest(self) -> psutil.Process:
        """The child that has worked most, or the one process where there is no child."""
        first, *children = self.processes()

        def worked(process: psutil.Process) -> float:
            with contextlib.suppress(psutil.NoSuchProcess):
                return float(process.cpu_times().user)
            return 0.0

        return max(children, key=worked, default=first)


@contextlib.contextmanager
def running(target: Target, setting: Setting) -> Iterator[Running]:
    """Starts a service, and stops it in the end with all that it has started.

    Raises:
        RunStopped: It ended, or was not ready within a minute.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            target.command(setting, port),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while not is_ready(port, target.ready):
                if process.poll() is not None or time.perf_counter() - start > START_S:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").strip().splitlines()
                    last = lines[-1] if lines else "it said nothing"
                    what = f"the service {target.name} is not ready: {last}"
                    raise RunStopped(what, hint="install what it needs, or leave it out")
                time.sleep(POLL_S)
            started = time.perf_counter() - start
            yield Running(psutil.Process(process.pid), port, started)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a process to end, and ends what is left of its session after that."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def is_ready(port: int, path: str) -> bool:
    """Whether a path of this machine answers with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

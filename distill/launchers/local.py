"""Workers as processes of this machine, each on a GPU of its own where there are some."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO

from distill.errors import RunStopped
from distill.launchers import Launcher as Base
from distill.launchers import Work


class Launcher(Base):
    """Processes of this machine; what they say is in `launch/worker-N.log`."""

    def launch(self, work: Work) -> None:
        """Starts them and waits; the rest go on where one dies."""
        work.folder.mkdir(parents=True, exist_ok=True)
        logs = [work.folder / f"worker-{number}.log" for number in range(work.workers)]
        with_logs: list[IO[bytes]] = []
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for number, log in enumerate(logs):
                with_logs.append(log.open("wb"))
                command = [sys.executable, "-m", "distill", *work.arguments]
                environment = os.environ | self.environment(number, work.workers)
                output = {"stdout": with_logs[-1], "stderr": subprocess.STDOUT}
                processes.append(subprocess.Popen(command, env=environment, **output))  # type: ignore[call-overload]
            work.say(f"{work.workers} workers, their logs in {work.folder}")
            codes = [process.wait() for process in processes]
        except BaseException:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            raise
        finally:
            for file in with_logs:
                file.close()
        for log, code in zip(logs, codes, strict=True):
            if code:
                last = (log.read_text("utf-8", "replace").splitlines() or [""])[-1]
                work.say(f"{log.stem} ended with {code}: {last}")
        if all(codes):  # one that comes to the end has seen all that was to be done
            raise RunStopped("no worker came to the end", str(work.folder), "look at their logs")

    def environment(self, number: int, workers: int) -> dict[str, str]:
        """What a worker is told apart by: its share of threads, and a GPU."""
        found = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
        if gpus := gpus_here():
            found["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        return found


def gpus_here() -> list[str]:
    """Names of the GPUs that CUDA may use here, as `CUDA_VISIBLE_DEVICES` has them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]

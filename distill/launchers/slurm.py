"""Workers as an array job of Slurm, each of which is put back into the queue when it is preempted.

Written from the documentation of sbatch; no cluster was at hand to try it.
"""

from __future__ import annotations

import shlex
from typing import Annotated

from pydantic import Field

from distill.files import write_text
from distill.launchers import Launcher as Base
from distill.launchers import Work

Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\n\r]*$")]


class Launcher(Base):
    """A script for `sbatch`; the folder of the experiment has to be there on every node."""

    partition: Line = ""
    account: Line = ""
    time: Annotated[str, Field(pattern=r"^[0-9:-]+$")] = "24:00:00"
    """Of each worker, as Slurm writes it."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """Of each worker."""
    cpus: Annotated[int, Field(ge=1)] = 8
    """Of each worker."""
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$")] = "32G"
    at_once: Annotated[int, Field(ge=0)] = 0
    """Most workers that run at the same time; 0 for all."""
    setup: Line = ""
    """A line of the shell before the command, such as `source venv/bin/activate`."""

    def launch(self, work: Work) -> None:
        """Writes the script, and says how it is submitted."""
        place = work.folder / f"{work.name}.sbatch"
        write_text(place, self.script(work))
        work.say(f"submit it: sbatch {shlex.quote(str(place))}")

    def script(self, work: Work) -> str:
        """What `sbatch` reads."""
        most = f"%{self.at_once}" if self.at_once else ""
        options = {
            "job-name": work.name,
            "array": f"0-{work.workers - 1}{most}",
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.time,
            "gpus-per-task": self.gpus,
            "ntasks": 1,
            "partition": self.partition,
            "account": self.account,
            "open-mode": "append",
            "output": work.folder / "slurm-%A_%a.log",
        }
        lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "#SBATCH --requeue",
                "#SBATCH --signal=TERM@60",
                "set -euo pipefail",
                *([self.setup] if self.setup else []),
                f"exec distill {shlex.join(work.arguments)}",
                "",
            ]
        )

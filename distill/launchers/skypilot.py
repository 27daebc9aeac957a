"""Workers as managed jobs of SkyPilot, on spot machines of whatever cloud has them cheapest.

Each worker is a job of its own (`--num-jobs`), on a machine of its own: one that is preempted is
started anew elsewhere while the others go on, and what it had claimed they take over. Nodes of one
job (`num_nodes`) are preempted together, and a pool keeps machines for jobs that outnumber them,
of which there are none here. The machines share no disk, so `--out` and `--data` are addresses;
the recipe travels as one file, with its links and overrides worked in.

Written from the documentation and read by SkyPilot 0.14.1 itself, whose `--num-jobs` needs no pool
as that of earlier releases did; no cloud was at hand to try it.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from distill.errors import UserError
from distill.files import write_json, write_text
from distill.launchers import Launcher as Base
from distill.launchers import Work
from distill.recipe import write_toml
from distill.storage import is_address

Line = Annotated[str, Field(max_length=1000, pattern=r"^[^\n\r]*$")]
Amount = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?\+?)?$")]
RESTARTS = 3  # of a worker that ended with an error; a preemption is none
RECIPE = "distillate/recipe.toml"  # below the home folder of a machine
# A Python of its own, as that of a machine may be older than ours; all workers have one version.
SETUP = (
    "pip install uv && uv venv --allow-existing --python 3.12 ~/distillate/venv && "
    "uv pip install --python ~/distillate/venv "
)


class Launcher(Base):
    """A task, in JSON, which is YAML as `sky` reads it; a job of it for each worker."""

    accelerators: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+(:[0-9]+)?)?$")] = "L4:1"
    """Of each worker, as SkyPilot names them; empty for none."""
    cpus: Amount = "8+"
    """Of each worker; with `+`, at least; empty for any."""
    memory: Amount = "32+"
    """GB of each worker."""
    use_spot: bool = True
    """Machines that cost less, and may be taken away at any time."""
    infra: Annotated[str, Field(pattern=r"^[A-Za-z0-9*][^\s]*$|^$")] = ""
    """Where: `aws`, `gcp/us-central1`, `k8s/my-cluster`; empty for the cheapest."""
    image: Annotated[str, Field(pattern=r"^\S*$")] = ""
    """Of the machines, such as `docker:registry.example/train:1`; empty for SkyPilot's."""
    package: Line = ""
    """What a machine installs `distill` from: `git+https://…` of a clone, or a wheel's address. On
    PyPI another project has the name.
    """
    setup: Line = ""
    """A line of the shell instead, that installs it; not needed either where the image has it."""

    def check(self, work: Work) -> None:
        """Raises `UserError` for a place that is on this machine's disk alone, or no `package`.

        Images may also be of a kind that fetches or makes them, such as `hf:OWNER/NAME` or `demo`.
        """
        given = dict(zip(work.arguments, work.arguments[1:], strict=False))
        for option in ("--out", "--data", "--unlabelled"):
            place = given.get(option, "")
            is_here = not is_address(place) if option == "--out" else Path(place).is_absolute()
            if is_here:
                what = f"SkyPilot's machines share no disk, got {place}"
                raise UserError(what, option, "name an address such as s3://bucket/prefix")
        if not (self.package or self.setup or self.image):
            hint = "say package=git+https://…, or give an image that has it, or a line setup=…"
            raise UserError("nothing says where machines get distill from", "package", hint)

    def launch(self, work: Work) -> None:
        """Writes the recipe and the task, and says how they are submitted."""
        recipe, task = (work.folder / f"{work.name}.{ending}" for ending in ("toml", "sky.yaml"))
        write_text(recipe, write_toml(work.open().recipe))
        write_json(task, self.task(work, recipe))
        command = ("sky", "jobs", "launch", "--detach-run", "--num-jobs", work.workers, task)
        work.say(f"submit it: {shlex.join(map(str, command))}")

    def task(self, work: Work, recipe: Path) -> dict[str, Any]:
        """What a worker's machine has to have, and what is run on it."""
        asked = {
            "infra": self.infra,
            "accelerators": self.accelerators,
            "cpus": self.cpus,
            "memory": self.memory,
            "image_id": self.image,
        }
        resources: dict[str, Any] = {key: value for key, value in asked.items() if value}
        resources["use_spot"] = self.use_spot
        resources["job_recovery"] = {"max_restarts_on_errors": RESTARTS}
        # Overrides are in the recipe.
        options = shlex.join(work.arguments[work.arguments.index("--data") :])
        run = f'export PATH="$HOME/distillate/venv/bin:$PATH"\nexec distill cache build ~/{RECIPE}'
        found: dict[str, Any] = {
            "name": work.name,
            "resources": resources,
            "file_mounts": {f"~/{RECIPE}": str(recipe.resolve())},
            "run": f"{run} {options}\n",
        }
        package = f"distillate[train,scale] @ {self.package}"
        setup = self.setup or (SETUP + shlex.quote(package) if self.package else "")
        return found | ({"setup": setup} if setup else {})

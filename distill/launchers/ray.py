"""Workers as actors of Ray Data, on one machine or on a cluster that shares a file system.

Rows are names of shards: an actor opens the experiment once, reads and writes shards itself and
gives their names back, so that no pixel goes through Ray's object store. An actor that dies is
started anew, wherever there is room, and asked again for the shard that it was at.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from distill.errors import DistillError, RunStopped, UserError, first_line, install_command
from distill.launchers import Launcher as Base
from distill.launchers import Work

if TYPE_CHECKING:
    from distill.pipeline.experiment import Experiment


RETRIES = 6  # of a shard whose actor dies; a machine that is taken away is none


class Builder:
    """An actor: what it is called with is a row that names a shard.

    What goes wrong is in its rows, as Ray prints pages of an exception; it begins no shard after
    that, so that all is soon said.
    """

    def __init__(self, open_: Callable[[], Experiment]) -> None:
        from distill.pipeline.cache import ShardBuilder

        self._builder: ShardBuilder | None = None
        self._error = ""
        try:
            self._builder = ShardBuilder(open_())
        except DistillError as error:
            self._error = str(error)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Computes the shard, unless it is there."""
        try:
            if self._builder and not self._error:
                self._builder.build(row["item"])
        except DistillError as error:
            self._error = str(error)
        return [{"name": row["item"], "process": os.getpid(), "error": self._error}]


class Launcher(Base):
    """Actors of Ray, which starts those anew that die."""

    address: Annotated[str, Field(max_length=1000)] = ""
    """Of a cluster; empty starts Ray on this machine."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Of each worker."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """Of each worker."""

    def launch(self, work: Work) -> None:
        """Does all shards that are missing, and waits for it.

        Raises:
            UserError: Ray is not installed.
            RunStopped: An actor could not do its shard, or died too often over one.
        """
        try:
            import ray
            from ray.data import ActorPoolStrategy
        except ModuleNotFoundError:
            hint = install_command("scale")
            raise UserError("Ray is not installed", "--launcher ray", hint) from None
        from distill.pipeline.cache import ShardBuilder

        names = ShardBuilder(work.open()).missing()
        if not names:
            return
        here = {} if self.address else {"num_cpus": max(1.0, self.cpus * work.workers)}
        ray.init(address=self.address or None, include_dashboard=False, log_to_driver=False, **here)
        try:
            ray.data.DataContext.get_current().enable_progress_bars = False
            pool = ActorPoolStrategy(size=work.workers)
            asked = ray.data.from_items(names, override_num_blocks=len(names))
            rows = asked.flat_map(
                Builder,
                fn_constructor_args=(work.open,),
                compute=pool,
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                max_restarts=-1,
                max_task_retries=RETRIES,
            ).take_all()
        except ray.exceptions.RayError as error:
            hint = "give each worker more memory, or repeat the command, which continues"
            raise RunStopped(f"Ray ended: {first_line(error)}", hint=hint) from None
        finally:
            ray.shutdown()
        for row in rows:
            if row["error"]:
                raise RunStopped(
                    row["error"], None, "mend that, and repeat the command, which continues"
                )
        work.say(f"{len(rows):,} shards by {len({row['process'] for row in rows})} actors")
        if left := ShardBuilder(work.open()).missing():
            raise RunStopped(f"{len(left)} shards are missing", hint="repeat the command")

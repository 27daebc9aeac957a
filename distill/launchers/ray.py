"""Workers as actors of Ray Data, on one machine or on a cluster that shares a file system.

Rows are names of shards: an actor opens the experiment once, reads and writes shards itself and
gives their names back, so that no pixel goes through Ray's object store.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from distill.errors import RunStopped, UserError
from distill.launchers import Launcher as Base
from distill.launchers import Work

if TYPE_CHECKING:
    from distill.pipeline.experiment import Experiment


class Builder:
    """An actor: what it is called with is a row that names a shard."""

    def __init__(self, open_: Callable[[], Experiment]) -> None:
        from distill.pipeline.cache import ShardBuilder

        self._builder = ShardBuilder(open_())

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Computes the shard, unless it is there."""
        self._builder.build(row["item"])
        return [{"name": row["item"], "process": os.getpid()}]


class Launcher(Base):
    """Actors of Ray, which starts those anew that die."""

    address: Annotated[str, Field(max_length=1000)] = ""
    """Of a cluster; empty starts Ray on this machine."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """Of each worker."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """Of each worker."""

    def launch(self, work: Work) -> None:
        """Does all shards that are missing, and waits for it."""
        try:
            import ray
            from ray.data import ActorPoolStrategy
        except ModuleNotFoundError:
            hint = "pip install 'distillate[scale]'"
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
            done = asked.flat_map(
                Builder,
                fn_constructor_args=(work.open,),
                compute=pool,
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            ).take_all()
        finally:
            ray.shutdown()
        processes = {row["process"] for row in done}
        work.say(f"{len(done):,} shards by {len(processes)} actors")
        if left := ShardBuilder(work.open()).missing():
            raise RunStopped(f"{len(left)} shards are missing", hint="repeat the command")

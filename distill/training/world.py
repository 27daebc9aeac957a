"""The processes that train one model together: which of them this is, and what they agree on.

Plain `torch.distributed`, started by `torchrun` or any launcher that sets its variables. One
process decides whatever rounding could decide differently elsewhere, and tells the others.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

# DistributedDataParallel reads it; read after a group began, its functions would keep that group,
# whose threads then outlive it and may abort a process at its end.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from distill.environment import num_processes
from distill.errors import RunStopped, UserError

T = TypeVar("T")
# A process that dies is the launcher's to notice; until then nobody knows how long others work.
PATIENCE = timedelta(days=7)
MEETING_PLACE, SOON_S = "distill/address", 0.5


@dataclass(frozen=True)
class World:
    """One process among `size`, and its device.

    Attributes:
        rank: Number of this process; 0 is the main one, which writes and decides.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and decides."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        self.from_main(None)

    def from_main(self, value: T) -> T:
        """What the main process has as `value`, on every process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return cast(T, box[0])

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, of float32 tensors of one shape."""
        if self.size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over the processes; buffers are the main one's."""
        if self.size == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The others begin when the main process is done, and find on disk what it left there."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()


@contextmanager
def without_sync(*models: nn.Module) -> Iterator[None]:
    """Gradients of wrapped models stay each process's own, until a backward pass outside of it."""
    with ExitStack() as stack:
        for model in models:
            if isinstance(model, DistributedDataParallel):
                stack.enter_context(model.no_sync())
        yield


def join(device: torch.device) -> World:
    """This process among those that `torchrun` started; the only one without it.

    Args:
        device: A GPU without a number becomes the one of this process's number on its machine.

    Raises:
        UserError: Several processes are to share one GPU.
    """
    if num_processes() == 1:
        return World(device)
    if device.type == "cuda":
        if device.index is not None:
            what = f"{num_processes()} processes cannot share {device}"
            raise UserError(what, "--device", "use cuda, and each takes a GPU of its own")
        if "LOCAL_RANK" not in os.environ:
            what = "WORLD_SIZE is set, LOCAL_RANK is not, which says whose GPU is whose"
            raise UserError(what, "environment", "start it with torchrun, or set LOCAL_RANK")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UserError(
            f"several processes cannot train on {device}", "--device", "use cpu or cuda"
        )
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            rank, size = int(os.environ["RANK"]), num_processes()
            store = meeting_place(rank, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            dist.init_process_group(backend, None, PATIENCE, size, rank, store)
        else:
            dist.init_process_group(backend, timeout=PATIENCE)
    return World(device, dist.get_rank(), dist.get_world_size())


def meeting_place(rank: int, host: str, port: int) -> TCPStore:
    """Where the processes of one start find each other, kept by the first of them.

    `torchrun` offers one itself, but the same after a restart: there they find addresses of
    processes that are gone, and wait for those (pytorch/pytorch#135712). Here it only tells where
    ours is, and that of an earlier start is gone with its first process.

    Args:
        host, port: Of the store that `torchrun` offers.
    """
    offered = TCPStore(host, port, is_master=False, timeout=PATIENCE)
    if rank == 0:
        with socket.create_connection((host, port)) as reached:
            own = reached.getsockname()[0]  # the address that others reach this machine by
        store = TCPStore(own, 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
        offered.set(MEETING_PLACE, f"{own} {store.port}")
        return store
    while True:
        at, number = offered.get(MEETING_PLACE).decode().split()
        with suppress(OSError), socket.create_connection((at, int(number)), timeout=SOON_S):
            return TCPStore(at, int(number), is_master=False, timeout=PATIENCE)
        time.sleep(SOON_S)  # it is that of an earlier start


def is_of_lost_process(error: RuntimeError) -> bool:
    """Whether it says that another process could not be reached; of Gloo only its words tell."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """`join`, and an end to it: after that the other processes may be gone.

    Where work failed, the launcher stops the others: nobody waits for them.

    Raises:
        RunStopped: Another process ended before.
    """
    world = join(device)
    try:
        yield world
        world.wait()
    except RuntimeError as error:
        if not is_of_lost_process(error):
            raise
        hint = "look for what it said; `torchrun --max-restarts 3`, or a repeated command, goes on"
        raise RunStopped("another process ended, this one cannot go on", hint=hint) from error
    if dist.is_initialized():
        dist.destroy_process_group()

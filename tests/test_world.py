"""Who trains together, on which device, and who decides."""

import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from distill.device import to_device
from distill.errors import RunStopped, UserError
from distill.training import fit as fit_module
from distill.training.precision import resolve_precision
from distill.training.trainer import Trainer
from distill.training.world import MEETING_PLACE, World, join, joined, meeting_place

CPU = torch.device("cpu")


def test_the_device_is_the_one_that_was_asked_for():
    """An earlier run on the CPU kept the next one there, whatever it was told."""
    for device in (CPU, torch.device("meta"), CPU):
        assert join(device) == World(device)


def test_alone_everything_is_as_it_is():
    world = World(CPU)
    with world.main_first():
        world.wait()
    model, values = torch.nn.Linear(2, 2), torch.ones(3)
    assert world.is_main
    assert world.wrap(model) is model
    assert world.mean(values) is values
    assert world.from_main("x") == "x"


def test_several_processes_take_a_gpu_each_or_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for device in ("cuda:1", "mps"):
        with pytest.raises(UserError, match="processes cannot"):
            join(torch.device(device))


def test_processes_of_an_earlier_start_are_not_looked_for():
    """A restart read their addresses from `torchrun`, which keeps them, and waited."""
    offered = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with socket.socket() as gone:
        gone.bind(("localhost", 0))
        offered.set(MEETING_PLACE, f"localhost {gone.getsockname()[1]}")
    with ThreadPoolExecutor(1) as other:
        found = other.submit(meeting_place, 1, "localhost", offered.port)
        store = meeting_place(0, "localhost", offered.port)
        store.set("name", "value")
        assert found.result(30).get("name") == b"value"


def test_who_loses_another_process_says_so():
    for error in (RuntimeError("[/gloo/tcp/pair.cc:545] Read error"), dist.DistBackendError("x")):
        with pytest.raises(RunStopped, match="another process ended"), joined(CPU):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), joined(CPU):
        raise RuntimeError("shapes do not fit")


def test_another_process_takes_the_scores_of_the_main_one(monkeypatch):
    """Each decided alone on patience and plateau: where rounding differed, one waited for ever."""
    told = {"val/top1": 90.0}
    monkeypatch.setattr(World, "from_main", lambda self, value: told if value is None else value)
    monkeypatch.setattr(fit_module, "validate", lambda *_: pytest.fail("it validated"))
    second = SimpleNamespace(job=SimpleNamespace(data=None), world=World(CPU, 1, 2))
    assert fit_module._validate(second) is told


@pytest.mark.parametrize(("name", "gpu"), [("cuda:1", 1), ("cuda", 2)])
def test_images_are_pinned_for_the_gpu_of_this_process(monkeypatch, name, gpu):
    """The thread that reads ahead began on the first GPU, and pinned memory there."""
    chosen = []
    # As strict as the real one, which refuses a device without a number.
    index = torch.cuda._utils._get_device_index
    monkeypatch.setattr(torch.cuda, "set_device", lambda one: chosen.append(index(one)))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    images = SimpleNamespace(pixels=lambda ids: np.zeros((len(ids), 2, 2, 3), np.uint8))
    trainer = SimpleNamespace(device=torch.device(name), job=SimpleNamespace(images=images))
    order = [(np.arange(count), None) for count in (3, 2, 1)]
    found = list(Trainer._read(trainer, order))
    assert [len(pixels) for _, pixels in found] == [3, 2, 1]
    assert chosen == [gpu]


class Copied:
    """Notes how it is copied."""

    waits: bool

    def is_pinned(self) -> bool:
        return True

    def to(self, device: torch.device, non_blocking: bool) -> "Copied":
        self.waits = not non_blocking
        return self


@pytest.mark.parametrize(("device", "waits"), [("mps", True), ("xpu", True), ("cuda", False)])
def test_nobody_waits_for_a_copy_only_where_that_is_safe(device, waits):
    """On MPS the memory of a temporary may be reused before it has been copied."""
    copied = to_device(Copied(), torch.device(device))
    assert copied.waits is waits


def test_halves_are_for_devices_that_have_them(monkeypatch):
    """Older GPUs can be made to emulate bf16, which is slower than fp32."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert resolve_precision("auto", torch.device("cuda")) == "fp32"
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="fp16"):
        resolve_precision("fp16", CPU)

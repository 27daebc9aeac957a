"""BatchNorm over the images of all processes, for the time of training alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.config import TrainConfig
from distill.errors import UserError


def check_sync_batchnorm(train: TrainConfig, device: torch.device, processes: int) -> None:
    """Checks that processes can share BatchNorm's statistics, before any work.

    Raises:
        UserError: Several are to do it without GPUs, for which torch has no kernels.
    """
    if train.sync_batchnorm and processes > 1 and device.type != "cuda":
        what = f"torch synchronises BatchNorm on GPUs only, these {processes} processes are on "
        what += f"{device.type}"
        raise UserError(what, "train.sync_batchnorm", "set it to false, or add --device cuda")


@contextmanager
def synchronised(model: nn.Module, on: bool) -> Iterator[None]:
    """Within it, BatchNorm layers below a model take their statistics over all processes.

    Each is replaced by one that has its parameters, buffers and names, and comes back at the end
    with what was learned. Evaluation computes the same with either.

    Args:
        on: False leaves everything as it is.
    """
    if not on:
        yield
        return
    from timm.layers import convert_sync_batchnorm  # torch's own drops activations of timm's layers

    plain = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm)}
    convert_sync_batchnorm(model)
    try:
        yield
    finally:
        for name, part in plain.items():
            trained = model.get_submodule(name)
            tensors = (*trained.named_parameters(), *trained.named_buffers())
            for key, tensor in tensors:  # which moving to a device may have replaced
                setattr(part, key, tensor)
            model.set_submodule(name, part.train(trained.training))

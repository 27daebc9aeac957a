"""Optimisers, learning-rate schedules, and which parameters learn how fast."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distill.config import TrainConfig, TransferConfig
from distill.errors import UserError
from distill.models.classifier import Classifier
from distill.models.layers import layer_group_of, layer_groups


def first_trained_group(classifier: Classifier, transfer: TransferConfig, epoch: int) -> int:
    """Index of the first group of layers that learns in this epoch; those before it are frozen."""
    count = len(layer_groups(classifier.network))
    if transfer.mode == "head" or epoch < transfer.freeze_epochs:
        return count - 1
    if transfer.mode == "partial":
        return max(0, count - 1 - transfer.stages)
    return 0


def set_trainable(classifier: Classifier, first: int) -> None:
    """Training mode and gradients from group `first` of the layers on.

    Frozen layers are in evaluation mode, so that their BatchNorm statistics stay as they are and
    their dropout is off.
    """
    classifier.train()
    owners = layer_group_of(classifier.network)
    for name, parameter in classifier.network.named_parameters():
        parameter.requires_grad_(owners[name] >= first)
    for group in layer_groups(classifier.network)[:first]:
        for prefix in group:
            classifier.network.get_submodule(prefix).eval()


def parameter_groups(
    classifier: Classifier, train: TrainConfig, transfer: TransferConfig
) -> list[dict[str, Any]]:
    """Groups by learning rate and weight decay, each of which knows its `lr_scale`.

    Few of them: one per layer made a step of SGD take 5 ms beside a GPU. Biases, norms and other
    one-dimensional parameters do not decay (He et al., 2018, arXiv:1812.01187, section 3.1). Layers
    that are never trained are in no group.
    """
    owners = layer_group_of(classifier.network)
    last = len(layer_groups(classifier.network)) - 1
    first = first_trained_group(classifier, transfer, transfer.freeze_epochs)
    grouped: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in classifier.network.named_parameters():
        if owners[name] >= first:
            scale = transfer.layer_lr_decay ** (last - owners[name])
            grouped[scale, parameter.ndim > 1].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": train.weight_decay if decays else 0.0,
            "lr_scale": scale,
        }
        for (scale, decays), parameters in sorted(grouped.items(), key=lambda item: item[0])
    ]


def make_optimizer(
    classifier: Classifier, train: TrainConfig, transfer: TransferConfig
) -> torch.optim.Optimizer:
    """The optimiser of a run.

    Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) is timm's: kernels are flattened
    to matrices, and steps have the size of AdamW's (Liu et al., 2025, arXiv:2502.16982).
    """
    groups = parameter_groups(classifier, train, transfer)
    if train.optimizer == "muon":
        muon: torch.optim.Optimizer = _muon()(groups, lr=train.lr, nesterov=True)
        return muon
    # One kernel instead of one per parameter: for a compact student on a CPU, AdamW takes 0.7 ms
    # instead of 2.7, SGD 0.5 instead of 1.8.
    fused = next(classifier.parameters()).device.type in ("cpu", "cuda")
    if train.optimizer == "sgd":
        nesterov = train.momentum > 0
        return torch.optim.SGD(groups, train.lr, train.momentum, nesterov=nesterov, fused=fused)
    return torch.optim.AdamW(groups, lr=train.lr, fused=fused)


def check_optimizer(train: TrainConfig) -> None:
    """Raises `UserError` where the optimiser is not to be had."""
    if train.optimizer == "muon":
        _muon()


def _muon() -> Any:
    try:
        from timm.optim import Muon  # which takes two seconds to import
    except ImportError:
        what, hint = "the timm that is installed has no Muon", "pip install 'timm>=1.0.22'"
        raise UserError(what, "train.optimizer", hint) from None
    return Muon


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate, scaled per group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


@dataclass
class Schedule:
    """The learning rate at any moment: a pure function of the epoch, but for `plateau`.

    Attributes:
        factor: What `plateau` has multiplied the learning rate by so far.
        best_loss, waited: Its best validation loss, and epochs since.
    """

    config: TrainConfig
    factor: float = 1.0
    best_loss: float = math.inf
    waited: int = 0

    def lr(self, epoch: float) -> float:
        """Learning rate at a moment in epochs, such as 1.5 for the middle of the second."""
        config = self.config
        warmup = config.warmup_epochs if config.schedule != "onecycle" else 0.0
        if epoch < warmup:
            return config.lr * max(epoch, 1e-3 * warmup) / warmup
        progress = (epoch - warmup) / max(1e-9, config.epochs - warmup)
        match config.schedule:
            case "cosine":
                return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
            case "onecycle":
                return config.lr * one_cycle(progress)
            case "step":
                return config.lr * config.step_factor ** (int(epoch) // config.step_epochs)
            case _:
                return config.lr * self.factor

    def after_epoch(self, val_loss: float) -> None:
        """Tells `plateau` how the epoch went."""
        if val_loss < self.best_loss:
            self.best_loss, self.waited = val_loss, 0
            return
        self.waited += 1
        if self.config.schedule == "plateau" and self.waited > self.config.plateau_epochs:
            self.factor, self.waited = self.factor * self.config.step_factor, 0

    def state(self) -> dict[str, float]:
        """What a resume needs."""
        return {"factor": self.factor, "best_loss": self.best_loss, "waited": self.waited}


def one_cycle(progress: float) -> float:
    """Cosine up from 1/25 to 1 in the first 30 % of the run, then cosine down to 4e-6.

    Smith & Topin, 2017, arXiv:1708.07120, in the two-phase form that fastai made usual.
    """

    def anneal(begin: float, finish: float, share: float) -> float:
        return finish + (begin - finish) * 0.5 * (1.0 + math.cos(math.pi * share))

    if progress < 0.3:
        return anneal(0.04, 1.0, progress / 0.3)
    return anneal(1.0, 4e-6, min(1.0, (progress - 0.3) / 0.7))

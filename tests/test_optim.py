"""Schedules at points worked out by hand, and which parameters learn how fast."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from distill.config import TrainConfig, TransferConfig
from distill.data.decode import InputSpec
from distill.errors import UserError
from distill.models.classifier import Classifier, Contract
from distill.models.layers import layer_group_of
from distill.training.optim import (
    Schedule,
    check_optimizer,
    first_trained_group,
    make_optimizer,
    parameter_groups,
    set_lr,
    set_trainable,
)


def schedule(**options: Any) -> Schedule:
    return Schedule(TrainConfig(**{"lr": 1.0, "warmup_epochs": 0.0, **options}))


class Net(nn.Module):
    """Four stages: stem, two blocks with BatchNorm and dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.features = nn.Sequential(*(self.block() for _ in range(2)))
        self.head = nn.Linear(4, 3)

    def block(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(self.stem(x)).mean(dim=(2, 3)))


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    spec = InputSpec(height=4, width=4)
    return Classifier(Net(), Contract(input_spec=spec, input_size=4, names=("a", "b", "c")))


def trainable(classifier: Classifier) -> set[int]:
    """Stages whose parameters have gradients; none is mixed."""
    owners = layer_group_of(classifier.network)
    stages: dict[int, set[bool]] = {}
    for name, parameter in classifier.network.named_parameters():
        stages.setdefault(owners[name], set()).add(parameter.requires_grad)
    assert all(len(flags) == 1 for flags in stages.values())
    return {stage for stage, flags in stages.items() if flags == {True}}


def test_constant() -> None:
    assert [schedule(schedule="constant").lr(e) for e in (0, 0.5, 29.9)] == [1.0] * 3


def test_cosine() -> None:
    lr = schedule(schedule="cosine", epochs=8).lr
    # (1 + cos(pi * share)) / 2 at shares 0, 1/4, 1/2, 3/4 and 1
    half = math.sqrt(0.5) / 2
    found = [lr(e) for e in (0, 2, 4, 6, 8, 9)]
    assert found == pytest.approx([1.0, 0.5 + half, 0.5, 0.5 - half, 0.0, 0.0])


def test_warmup_rises_in_a_line_then_the_rest_is_cosine() -> None:
    lr = schedule(schedule="cosine", epochs=10, warmup_epochs=2.0).lr
    assert [lr(e) for e in (0.5, 1.0, 1.5)] == pytest.approx([0.25, 0.5, 0.75])
    assert lr(0.0) == pytest.approx(1e-3)  # not zero: a first step that changes nothing is a waste
    assert [lr(e) for e in (2.0, 6.0, 10.0)] == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("name", ["constant", "plateau", "step"])
def test_every_schedule_but_onecycle_warms_up(name: str) -> None:
    lr = schedule(schedule=name, warmup_epochs=4.0).lr
    assert [lr(e) for e in (1.0, 2.0, 4.0)] == pytest.approx([0.25, 0.5, 1.0])


def test_a_warmup_longer_than_the_run_only_rises() -> None:
    lr = schedule(schedule="cosine", epochs=2, warmup_epochs=4.0).lr
    assert [lr(e) for e in (1.0, 2.0)] == pytest.approx([0.25, 0.5])


def test_step() -> None:
    lr = schedule(schedule="step", step_epochs=7, step_factor=0.1).lr
    found = [lr(e) for e in (0, 6.99, 7, 13.9, 14, 21)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.001])


def test_onecycle() -> None:
    lr = schedule(schedule="onecycle", epochs=10, warmup_epochs=5.0).lr
    # Up from 1/25 to 1 within 30 %, half way at 15 %: (0.04 + 1) / 2. Down to 4e-6 at the end, half
    # way at 65 %.
    assert [lr(e) for e in (0, 1.5, 3)] == pytest.approx([0.04, 0.52, 1.0])
    assert [lr(e) for e in (6.5, 10, 11)] == pytest.approx([(1 + 4e-6) / 2, 4e-6, 4e-6])


def test_onecycle_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    # Torch's phases end one step early: at 0.3 * total - 1 and at total - 1.
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2.0, total_steps=1001, pct_start=301 / 1001
    )
    ours = Schedule(TrainConfig(schedule="onecycle", epochs=1000, lr=2.0))
    for step in range(1001):
        assert ours.lr(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), step
        if step < 1000:
            optimizer.step()
            theirs.step()


def test_plateau_waits_then_multiplies() -> None:
    plateau = schedule(schedule="plateau", plateau_epochs=2, step_factor=0.5)
    seen = []
    for loss in (1.0, 1.0, 1.2, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9):
        plateau.after_epoch(loss)
        seen.append(plateau.lr(5.0))
    # 0.9 is better after two that were not; then the third without a better one cuts, and again.
    assert seen == [1.0] * 6 + [0.5] * 3 + [0.25]


def test_plateau_is_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=3, threshold=0.0, eps=0.0
    )
    ours = schedule(schedule="plateau", plateau_epochs=3, step_factor=0.5)
    losses = torch.rand(200, generator=torch.Generator().manual_seed(0)).tolist()
    for epoch, loss in enumerate(losses):
        value = loss + 5.0 / (1 + epoch)
        theirs.step(value)
        ours.after_epoch(value)
        assert ours.lr(5.0) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=0.0)
    assert ours.factor < 0.5**5


def test_only_plateau_looks_at_the_loss() -> None:
    for name in ("constant", "cosine", "step", "onecycle"):
        other = schedule(schedule=name, plateau_epochs=1)
        before = other.lr(3.0)
        for _ in range(5):
            other.after_epoch(1.0)
        assert other.lr(3.0) == before


def test_a_schedule_resumes_from_its_state() -> None:
    plateau = schedule(schedule="plateau", plateau_epochs=1, step_factor=0.5)
    for loss in (1.0, 2.0, 2.0, 2.0):
        plateau.after_epoch(loss)
    resumed = Schedule(plateau.config, **plateau.state())
    for loss in (2.0, 0.5, 2.0, 2.0):
        plateau.after_epoch(loss)
        resumed.after_epoch(loss)
        assert resumed.lr(5.0) == plateau.lr(5.0)
        assert resumed.state() == plateau.state()
    assert plateau.factor == 0.125  # cut after the third, the fifth and the eighth epoch


@pytest.mark.parametrize(
    ("transfer", "epoch", "first"),
    [
        ({"mode": "full"}, 0, 0),
        ({"mode": "head"}, 5, 3),
        ({"mode": "partial", "stages": 1}, 0, 2),
        ({"mode": "partial", "stages": 2}, 0, 1),
        ({"mode": "partial", "stages": 9}, 0, 0),
        ({"mode": "full", "freeze_epochs": 2}, 1, 3),
        ({"mode": "full", "freeze_epochs": 2}, 2, 0),
        ({"mode": "partial", "freeze_epochs": 1}, 0, 3),
        ({"mode": "partial", "freeze_epochs": 1}, 1, 2),
    ],
)
def test_the_first_stage_that_learns(
    classifier: Classifier, transfer: dict[str, Any], epoch: int, first: int
) -> None:
    assert first_trained_group(classifier, TransferConfig(**transfer), epoch) == first
    set_trainable(classifier, first)
    assert trainable(classifier) == set(range(first, 4))


@pytest.mark.parametrize(("first", "frozen"), [(0, 0), (2, 1), (3, 2)])
def test_frozen_stages_are_in_evaluation_mode(
    classifier: Classifier, first: int, frozen: int
) -> None:
    classifier.eval()
    set_trainable(classifier, first)
    assert classifier.training
    assert classifier.network.head.training
    for index, block in enumerate(classifier.network.features):
        assert {module.training for module in block.modules()} == {index >= frozen}


def test_frozen_statistics_stay_and_others_move(classifier: Classifier) -> None:
    norms = [block[1] for block in classifier.network.features]
    before = [norm.running_mean.clone() for norm in norms]
    set_trainable(classifier, 2)
    classifier(torch.rand(8, 3, 4, 4))
    assert torch.equal(norms[0].running_mean, before[0])
    assert not torch.equal(norms[1].running_mean, before[1])


def test_what_was_frozen_thaws(classifier: Classifier) -> None:
    set_trainable(classifier, 3)
    set_trainable(classifier, 0)
    assert trainable(classifier) == {0, 1, 2, 3}
    assert all(module.training for module in classifier.modules())


def test_a_step_changes_what_is_trained_and_nothing_else(classifier: Classifier) -> None:
    transfer = TransferConfig(mode="partial", stages=1)
    optimizer = make_optimizer(classifier, TrainConfig(weight_decay=0.1), transfer)
    set_trainable(classifier, first_trained_group(classifier, transfer, 0))
    before = {name: p.detach().clone() for name, p in classifier.network.named_parameters()}
    classifier(torch.rand(8, 3, 4, 4)).logits.square().sum().backward()
    optimizer.step()
    owners = layer_group_of(classifier.network)
    for name, parameter in classifier.network.named_parameters():
        # The bias of a convolution before BatchNorm gets next to no gradient; Adam moves it anyway.
        assert torch.equal(parameter, before[name]) == (owners[name] < 2), name


def test_biases_and_norms_do_not_decay(classifier: Classifier) -> None:
    groups = parameter_groups(classifier, TrainConfig(weight_decay=0.1), TransferConfig())
    names = {id(p): name for name, p in classifier.network.named_parameters()}
    decays = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert len(decays) == len(names)
    assert {name for name, decay in decays.items() if decay == 0.1} == {
        "stem.weight",
        "features.0.0.weight",
        "features.1.0.weight",
        "head.weight",
    }
    assert set(decays.values()) == {0.0, 0.1}


def test_layers_that_learn_alike_share_a_group(classifier: Classifier) -> None:
    """Each group is a launch, or several, of every step."""
    alike = parameter_groups(classifier, TrainConfig(), TransferConfig())
    assert len(alike) == 2  # what decays and what does not
    apart = parameter_groups(classifier, TrainConfig(), TransferConfig(layer_lr_decay=0.5))
    assert len(apart) == 8  # four groups of layers


def test_every_parameter_is_in_one_group(classifier: Classifier) -> None:
    groups = parameter_groups(classifier, TrainConfig(), TransferConfig())
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in classifier.network.parameters())


@pytest.mark.parametrize("mode", ["head", "partial"])
def test_stages_that_never_learn_are_in_no_group(classifier: Classifier, mode: str) -> None:
    transfer = TransferConfig(mode=mode, stages=1, freeze_epochs=3)
    groups = parameter_groups(classifier, TrainConfig(), transfer)
    names = {id(p): name for name, p in classifier.network.named_parameters()}
    found = {names[id(p)].split(".0")[0] for group in groups for p in group["params"]}
    heads = {"head.weight", "head.bias"}
    late = {name for name in names.values() if name.startswith("features.1")}
    expected = heads if mode == "head" else heads | {name.split(".0")[0] for name in late}
    assert found == expected


def test_learning_rates_fall_from_the_head_to_the_input(classifier: Classifier) -> None:
    optimizer = make_optimizer(classifier, TrainConfig(), TransferConfig(layer_lr_decay=0.5))
    set_lr(optimizer, 0.8)
    names = {id(p): name for name, p in classifier.network.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates["head.weight"] == rates["head.bias"] == pytest.approx(0.8)
    assert rates["features.1.0.weight"] == rates["features.1.1.bias"] == pytest.approx(0.4)
    assert rates["features.0.0.weight"] == pytest.approx(0.2)
    assert rates["stem.weight"] == rates["stem.bias"] == pytest.approx(0.1)
    set_lr(optimizer, 0.08)  # of the base, not of what it was
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.08)


def test_the_optimizer_is_the_one_asked_for(classifier: Classifier) -> None:
    adamw = make_optimizer(classifier, TrainConfig(optimizer="adamw"), TransferConfig())
    assert type(adamw) is torch.optim.AdamW
    options = TrainConfig(optimizer="sgd", momentum=0.8, lr=0.3)
    sgd = make_optimizer(classifier, options, TransferConfig())
    assert type(sgd) is torch.optim.SGD
    assert {(g["momentum"], g["lr"]) for g in sgd.param_groups} == {(0.8, 0.3)}


def test_muon_steps_are_orthogonal_and_as_large_as_adamws(classifier: Classifier) -> None:
    kernels = {
        n: p for n, p in classifier.network.named_parameters() if p.ndim == 4 and "stem" not in n
    }
    assert kernels
    before = {name: p.detach().clone() for name, p in kernels.items()}
    options = TrainConfig(optimizer="muon", lr=0.01, weight_decay=0.0)
    optimizer = make_optimizer(classifier, options, TransferConfig())
    set_lr(optimizer, 0.01)
    classifier(torch.rand(8, 3, 4, 4)).logits.square().sum().backward()
    optimizer.step()
    for name, kernel in kernels.items():
        step = (kernel.detach() - before[name]).flatten(1)
        strengths = torch.linalg.svdvals(step) / (0.01 * 0.2 * max(step.shape) ** 0.5)
        # Newton and Schulz's five steps take strengths that are not tiny to about 1, in bf16.
        assert strengths[0] == pytest.approx(1.0, abs=0.35), name
        assert (strengths > 0.5).float().mean() > 0.4, name


def test_a_timm_without_muon_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm.optim

    check_optimizer(TrainConfig(optimizer="muon"))
    monkeypatch.delattr(timm.optim, "Muon")
    check_optimizer(TrainConfig())
    with pytest.raises(UserError, match="no Muon"):
        check_optimizer(TrainConfig(optimizer="muon"))


def test_sgd_without_momentum_is_allowed(classifier: Classifier) -> None:
    options = TrainConfig(optimizer="sgd", momentum=0.0)
    assert make_optimizer(classifier, options, TransferConfig()).param_groups

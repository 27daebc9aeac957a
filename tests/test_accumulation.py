"""Several batches per optimiser step: the gradient of one large batch, told once."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.amp import GradScaler

from distill.config import ModelConfig, RunConfig, StrategyConfig, TrainConfig, ViewsConfig
from distill.data.views.images import Batch
from distill.errors import UserError
from distill.models.classifier import Classifier, build_classifier
from distill.progress import Progress
from distill.teaching.teachers import LiveTeachers
from distill.training.accumulation import (
    WHOLE,
    Part,
    accumulate_anew,
    effective_batch,
    parts,
    rate_line,
    usual_rate,
)
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.trainer import Trainer
from distill.training.world import World

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)
# No BatchNorm, no dropout: an image's gradient depends on that image alone.
MODEL = ModelConfig(name="baseline_cnn", options={"width": [8, 8], "hidden": 8, "dropout": 0.0})


def network(data, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(MODEL, data.classes, data.spec, task=data.task)


def job_of(data, folder, strategy: str = "supervised", teachers=(), **train) -> Job:
    options = {"epochs": 2, "batch_size": 8, "lr": 1e-2, "optimizer": "sgd", **train}
    config = RunConfig(
        name="tiny",
        model=MODEL,
        strategy=StrategyConfig(name=strategy),
        train=TrainConfig(**options),
    )
    return Job(config, data, ViewsConfig(), 0, folder, teachers)


def trainer_of(data, folder, strategy="supervised", world=None, **train) -> Trainer:
    teachers = [] if strategy == "supervised" else [network(data, 1)]
    job = job_of(data, folder, strategy, teachers, **train)
    asked = LiveTeachers(teachers, CPU, None, job.needs_features) if teachers else None
    trainer = Trainer(network(data), job, world or World(CPU), asked)
    trainer.begin_epoch(0)
    return trainer


def joined(batches: list[Batch]) -> Batch:
    weights = None if batches[0].weights is None else torch.cat([b.weights for b in batches])
    return batches[0]._replace(
        ids=torch.cat([torch.from_numpy(batch.ids) for batch in batches]).numpy(),
        images=torch.cat([batch.images for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        weights=weights,
    )


def gradients(trainer: Trainer) -> list[torch.Tensor]:
    return [p.grad.clone() for p in trainer.classifier.parameters() if p.grad is not None]


def accumulated(trainer: Trainer, batches: list[Batch]) -> list[torch.Tensor]:
    for number, batch in enumerate(batches):
        trainer.step(batch, 0, Part(number, len(batches)))
    return gradients(trainer)


def test_the_last_step_of_an_epoch_is_of_what_is_left():
    assert [(part.number, part.of) for part in parts(5, 3)] == [
        (0, 3),
        (1, 3),
        (2, 3),
        (0, 2),
        (1, 2),
    ]
    assert list(parts(3, 1)) == [WHOLE] * 3
    assert list(parts(2, 5)) == [Part(0, 2), Part(1, 2)]


@pytest.mark.parametrize("strategy", ["supervised", "vanilla"])
def test_the_gradient_is_that_of_one_large_batch(data, tmp_path, strategy):
    """Clipped as one, too: by the norm of the whole, not of each batch."""
    for clip_norm in (0.0, 1e-2):
        options = {"strategy": strategy, "clip_norm": clip_norm, "ema_decay": 0.9}
        small, large = (trainer_of(data, tmp_path, **options) for _ in range(2))
        batches = list(small.batches(0))[:3]
        large.step(joined(batches), 0)
        for one, other in zip(accumulated(small, batches), gradients(large), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
        assert int(small.averaged.state()["n_averaged"]) == 1
        weights = small.classifier.state_dict()
        for name, value in large.classifier.state_dict().items():
            torch.testing.assert_close(weights[name], value, msg=name)


def test_two_processes_mix_images_as_one_does(data, tmp_path):
    """A run may go on with another number of them."""
    trainer = trainer_of(data, tmp_path, mixup=0.4)
    one = list(trainer.batches(0))
    of_each = []
    for rank in range(2):
        trainer.world = World(CPU, rank, 2)
        of_each.append(list(trainer.batches(0)))
    of_two = [batch for both in zip(*of_each, strict=True) for batch in both]
    assert len({batch.share for batch in one}) > 2
    assert [batch.share for batch in of_two] == [batch.share for batch in one[: len(of_two)]]


def test_labels_with_weights_are_weighed_within_their_batch(skewed, tmp_path):
    """As between processes: the step is the mean of weighted means, each batch counting alike."""
    trainer = trainer_of(skewed, tmp_path, class_weights="balanced", lr=1e-30)
    batches = list(trainer.batches(0))[:3]
    each = []
    for batch in batches:
        trainer.step(batch, 0)
        each.append(gradients(trainer))
    for found, *alone in zip(accumulated(trainer, batches), *each, strict=True):
        torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-7)


def test_passes_are_one_launch_where_nothing_else_holds_their_memory(data, tmp_path):
    """That takes a GPU, one process, and one batch per step."""

    def mode(device: str, size: int = 1, **train) -> str | None:
        trainer = trainer_of(data, tmp_path, **train)
        trainer.device, trainer.world = torch.device(device), World(CPU, 0, size)
        return trainer._compile_mode

    assert mode("cuda") == "reduce-overhead"
    assert mode("cpu") is None
    assert mode("cuda", size=2) is None
    assert mode("cuda", accumulate=2) is None


def test_what_an_earlier_version_began_is_refused(data, tmp_path):
    """Its optimiser had a group of parameters for each layer."""
    trainer = trainer_of(data, tmp_path)
    state = trainer.state()
    state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0])
    with pytest.raises(UserError, match=r"earlier version.*--overwrite"):
        trainer.load_state(state)


def test_a_run_equals_one_of_larger_batches(data, tmp_path):
    """Schedule, clipping and averages count optimiser steps; an epoch here is 8 batches of 8."""
    options = {"ema_decay": 0.9, "clip_norm": 0.5, "schedule": "cosine", "epochs": 3}
    for name, sizes in {"small": (8, 8), "large": (64, 1)}.items():
        train = {**options, "batch_size": sizes[0], "accumulate": sizes[1]}
        fit(network(data), job_of(data, tmp_path / name, **train), CPU, QUIET)
    small, large = (load_file(tmp_path / n / "best.safetensors") for n in ("small", "large"))
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_scaled_losses_are_unscaled_once(data, tmp_path):
    """And a batch whose gradient is not finite costs the whole step, as in a large batch."""
    plain, scaled = (trainer_of(data, tmp_path, clip_norm=1e9) for _ in range(2))
    batches = list(plain.batches(0))[:2]
    scaled.scaler = GradScaler("cpu", init_scale=1024.0)
    pairs = zip(accumulated(scaled, batches), accumulated(plain, batches), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other)
    before = {name: value.clone() for name, value in scaled.classifier.state_dict().items()}
    bad = batches[0]._replace(images=torch.full_like(batches[0].images, torch.inf))
    accumulated(scaled, [bad, batches[1]])
    assert all(torch.equal(before[n], v) for n, v in scaled.classifier.state_dict().items())
    assert scaled.scaler.get_scale() == 512.0


@pytest.fixture
def process_group():
    """Of this process alone: enough for DDP to do all that it does."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_processes_tell_gradients_once_a_step(data, tmp_path, process_group):
    """The projection of features, which is wrapped as well, included."""
    alone = trainer_of(data, tmp_path, "feature")
    shared = trainer_of(data, tmp_path, "feature", World(CPU, 0, 2))
    told: list[str] = []

    def counted(name: str, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        told.append(name)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    for name, wrapped in shared._wrapped.items():
        wrapped.register_comm_hook(name, counted)
    batches = list(alone.batches(0))[:3]
    for number, batch in enumerate(batches):
        assert not told
        shared.step(batch, 0, Part(number, 3))
    assert sorted(told) == ["classifier", "projection"]
    for one, other in zip(gradients(shared), accumulated(alone, batches), strict=True):
        torch.testing.assert_close(one, other)


class Stop(Exception):
    """Ends a run after an epoch, as a kill would."""


@pytest.mark.parametrize("before", [{"processes": 2, "accumulate": 1}, {}])
def test_other_processes_continue_with_the_same_steps(data, tmp_path, before):
    """A run of two processes goes on in one, which accumulates two batches.

    So does one of an earlier version, which did not say how many there were, as its options say.
    """

    def stop(row):
        if row["epoch"] == 0:
            raise Stop

    whole, cut = (job_of(data, tmp_path / name, accumulate=2) for name in ("whole", "cut"))
    fit(network(data), whole, CPU, QUIET)
    with pytest.raises(Stop):
        fit(network(data), cut, CPU, QUIET, after_epoch=stop)
    file = cut.folder / "last" / "state.pt"
    state = torch.load(file, weights_only=True)
    assert (state["processes"], state["accumulate"]) == (1, 2)
    del state["processes"], state["accumulate"]
    torch.save({**state, **before}, file)
    options = cut.config.train.model_copy(update={"accumulate": before.get("accumulate", 2)})
    resumed = replace(cut, config=cut.config.model_copy(update={"train": options}))
    fit(network(data, 5), resumed, CPU, QUIET)
    weights = load_file(cut.folder / "best.safetensors")
    for name, value in load_file(whole.folder / "best.safetensors").items():
        assert torch.equal(weights[name], value)


def test_processes_that_cannot_share_a_step_are_refused():
    assert [accumulate_anew(4, 3, now) for now in (1, 2, 3, 4, 6, 12)] == [12, 6, 4, 3, 2, 1]
    for now in (5, 8, 24):
        with pytest.raises(UserError, match=f"12 batches, which {now} processes"):
            accumulate_anew(4, 3, now)


def test_the_effective_batch_is_over_processes_and_batches():
    assert effective_batch(10_000, 64, 4, 2) == 512
    assert effective_batch(300, 64, 2, 8) == 256  # an epoch has two batches of each process
    assert effective_batch(40, 64, 2, 3) == 40


def test_rates_are_said_to_grow_with_the_batch_and_are_left_as_given(data, tmp_path):
    sgd, adam = (TrainConfig(optimizer=name, lr=0.01, batch_size=16) for name in ("sgd", "adamw"))
    assert usual_rate(sgd, 64) == pytest.approx(0.04)  # linear
    assert usual_rate(adam, 64) == pytest.approx(0.02)  # square root
    assert "0.04" in rate_line(sgd, 1000, 2, 2)
    assert "0.02" in rate_line(adam, 1000, 4, 1)
    job = job_of(data, tmp_path, accumulate=8, schedule="constant", warmup_epochs=0.0)
    lrs = []
    fit(network(data), job, CPU, QUIET, after_epoch=lambda row: lrs.append(row["lr"]))
    assert lrs == [1e-2, 1e-2]

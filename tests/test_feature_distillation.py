"""Strategy `feature`: pooled features from the head's door to the cache, the loss and a resume."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distill.config import CacheConfig, ModelConfig, RunConfig, StrategyConfig, TrainConfig
from distill.config import ViewsConfig as Views
from distill.data.store import subset
from distill.data.views.images import Batch
from distill.models.classifier import build_classifier
from distill.models.pooling import FeatureTap, feature_width
from distill.progress import Progress
from distill.strategies.losses import unexplained
from distill.teaching.cache_build import verify_cache
from distill.teaching.teachers import CachedTeachers, LiveTeachers
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.teachers import build_caches, open_caches
from distill.training.trainer import Trainer
from distill.training.world import World

QUIET, CPU = Progress(quiet=True), torch.device("cpu")


def shape(width: int) -> dict:
    return {"width": [8, width], "depth": [1, 1], "head_width": 0, "dropout": 0.0}


def network(data, width: int, seed: int = 0):
    torch.manual_seed(seed)
    model = ModelConfig(name="compact", options=shape(width))
    return build_classifier(model, data.classes, data.spec, task=data.task)


def make_job(data, folder: Path, strategy=None, epochs=3, teachers=1, **cache) -> Job:
    config = RunConfig(
        name="tiny",
        model=ModelConfig(name="compact", options=shape(8)),
        strategy=StrategyConfig(**{"name": "feature", **(strategy or {})}),
        train=TrainConfig(epochs=epochs, batch_size=16, lr=3e-3, warmup_epochs=0.0),
        cache=CacheConfig(**cache),
    )
    models = [network(data, 12 + 4 * number, seed=number + 1) for number in range(teachers)]
    return Job(config, data, Views(), 0, folder / "run", models, cache=folder / "cache")


def batch_of(job: Job, ids, view=0, share=None) -> Batch:
    images, ids = job.images.view(np.asarray(ids), view, CPU), np.asarray(ids)
    return Batch(ids, view, images, torch.from_numpy(job.images.labels[ids]), share=share)


def test_what_is_unexplained_of_known_features():
    teacher = torch.tensor([[0.0, 2.0], [4.0, 2.0]], dtype=torch.float64)
    assert float(unexplained(teacher, teacher)) == 0.0
    means = teacher.mean(dim=0).expand(2, 2)
    assert float(unexplained(means, teacher)) == 1.0
    # One number of four is off by 2; the variance is (4 + 4 + 0 + 0) / 4 = 2: 4 / 4 / 2 = 0.5.
    off = teacher + torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    assert float(unexplained(off, teacher)) == 0.5
    assert float(unexplained(1e3 * off, 1e3 * teacher)) == pytest.approx(0.5)
    assert torch.isfinite(unexplained(off, means)).all()


@pytest.mark.parametrize(("name", "width"), [("compact", 8), ("timm/resnet10t", 512)])
def test_features_are_what_the_head_is_given(data, name, width):
    options = shape(8) if name == "compact" else {}
    model = ModelConfig(name=name, options=options)
    classifier = build_classifier(model, data.classes, data.spec).eval()
    assert feature_width(classifier) == width
    tap = FeatureTap(classifier)
    logits = classifier(torch.rand(5, 3, 32, 32)).logits
    heads = [part for part in classifier.network.modules() if isinstance(part, nn.Linear)]
    features = tap.take()
    tap.remove()
    torch.testing.assert_close(heads[-1](features), logits)
    classifier(torch.rand(2, 3, 32, 32))
    with pytest.raises(AssertionError, match="no forward pass"):
        tap.take()


def test_nothing_of_a_forward_pass_stays_behind(data):
    """A head's own dropout did, and a network with a graph cannot be copied."""
    model = ModelConfig(name="torchvision/squeezenet1_1")
    classifier = build_classifier(model, data.classes, data.spec).train()
    tap = FeatureTap(classifier)
    classifier(torch.rand(2, 3, 32, 32))
    tap.take()
    copy.deepcopy(classifier)


def test_features_are_those_before_dropout(data):
    """What is dropped at random was held against the teacher's features, of which nothing is."""
    model = ModelConfig(name="compact", options={**shape(8), "dropout": 0.5})
    classifier = build_classifier(model, data.classes, data.spec)
    for part in classifier.modules():
        part.train(isinstance(part, nn.Dropout))
    images, taken = torch.rand(5, 3, 32, 32), []
    for _ in range(2):
        tap = FeatureTap(classifier)
        classifier(images)
        taken.append(tap.take())
        tap.remove()
    assert torch.equal(taken[0], taken[1])
    assert not torch.equal(*(classifier(images).logits for _ in range(2)))  # it drops indeed


@pytest.mark.parametrize("top_k", [0, 1])
def test_cached_features_are_those_of_the_same_view(data, tmp_path, top_k):
    """Of several teachers, each of a width of its own."""
    job = make_job(data, tmp_path, teachers=2, views=2, top_k=top_k)
    caches = build_caches(job, World(CPU), QUIET)
    cached, live = CachedTeachers(caches, CPU), LiveTeachers(job.teachers, CPU, None, True)
    for view in range(2):
        batch = batch_of(job, [40, 3, 62, 0], view)
        said, expected = cached(batch).features, live(batch).features
        assert [one.shape for one in said] == [(4, 12), (4, 16)]
        for one, other in zip(said, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)
    measured = verify_cache(caches[0], job.teachers[0], job.images, CPU)
    assert measured["max_difference"] < 0.01


def test_mixed_images_get_the_mixture_of_features(data, tmp_path):
    job = make_job(data, tmp_path, views=1)
    cached = CachedTeachers(build_caches(job, World(CPU), QUIET), CPU)
    (plain,) = cached(batch_of(job, [5, 6, 7])).features
    (mixed,) = cached(batch_of(job, [5, 6, 7], share=0.25)).features
    torch.testing.assert_close(mixed, 0.25 * plain + 0.75 * plain[[2, 0, 1]])


def test_a_cache_without_features_is_another_one(data, tmp_path):
    """And is named as before there were any."""
    job = make_job(data, tmp_path)
    vanilla = make_job(data, tmp_path, {"name": "vanilla"})
    (with_features,), (without,) = open_caches(job), open_caches(vanilla)
    assert with_features.folder != without.folder
    assert without.empty_rows(1).nbytes == 2 * 3
    assert with_features.empty_rows(1).nbytes == 2 * (3 + 12)
    assert "features" not in without.identity


def rows_of(job: Job) -> list[dict]:
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("use", [True, False])
@pytest.mark.parametrize("task", ["data", "multi_data"])
def test_features_are_learned(request, tmp_path, use, task):
    data = request.getfixturevalue(task)
    job = make_job(data, tmp_path, epochs=6, teachers=2, use=use, views="all")
    fit(network(data, 8), job, CPU, QUIET)
    missed = [row["train/feature"] for row in rows_of(job)]
    assert missed[-1] < 0.7 * missed[0]
    row = rows_of(job)[-1]
    parts = 0.9 * row["train/kd"] + 0.1 * row["train/ce"] + row["train/feature"]
    assert row["train/loss"] == pytest.approx(parts, rel=1e-5)
    weights = load_file(job.folder / "best.safetensors")
    assert not [name for name in weights if "maps" in name]  # what is projected with is not kept


def test_a_stopped_run_goes_on_as_if_it_had_not_been(data, tmp_path, fit_until):
    whole, job = make_job(data, tmp_path / "whole"), make_job(data, tmp_path / "stopped")
    fit(network(data, 8), whole, CPU, QUIET)

    fit_until(network(data, 8), job, 2)
    fit(network(data, 8, seed=7), job, CPU, QUIET)
    expected, found = (load_file(one.folder / "best.safetensors") for one in (whole, job))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [r["train/feature"] for r in rows_of(whole)] == [
        r["train/feature"] for r in rows_of(job)
    ]


def step_gradient(data, job: Job, labels_shift: int = 0, only_new: bool = False) -> torch.Tensor:
    """Gradient of one step in the student's first layer, without the head's own terms."""
    student = network(data, 8)
    trainer = Trainer(student, job, World(CPU), LiveTeachers(job.teachers, CPU, None, True))
    trainer.begin_epoch(0)
    ids = np.arange(len(job.images))[-6:] if only_new else np.arange(6)
    batch = batch_of(job, ids)
    labels = (batch.labels.clamp(min=0) + labels_shift) % len(data.classes)
    weights = torch.from_numpy(job.images.is_labelled[ids]).float()
    trainer.step(batch._replace(labels=labels, weights=weights), 0)
    return next(student.parameters()).grad.clone()


def test_no_label_is_needed(data, tmp_path):
    job = make_job(data, tmp_path, {"kd_weight": 1.0})
    assert torch.equal(step_gradient(data, job), step_gradient(data, job, labels_shift=1))
    labelled = make_job(data, tmp_path, {"kd_weight": 0.5})
    assert not torch.equal(step_gradient(data, labelled), step_gradient(data, labelled, 1))


def test_images_without_labels_teach_features(data, tmp_path):
    extra = subset(data.train, np.arange(20))
    job = replace(
        make_job(data, tmp_path, {"kd_weight": 0.0}),
        unlabelled=replace(extra, labels=np.full(20, -1)),
    )
    assert step_gradient(data, job, only_new=True).abs().max() > 0
    without = make_job(data, tmp_path, {"kd_weight": 0.0, "feature_weight": 0.0})
    without = replace(without, unlabelled=job.unlabelled)
    assert step_gradient(data, without, only_new=True).abs().max() == 0

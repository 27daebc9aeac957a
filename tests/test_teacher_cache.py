"""Stored teacher logits: exact, never joined to other images or views, restartable, refused."""

import errno
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import distill.data.views.images as images_module
import distill.teaching.cache as module
from distill.buckets import Folder
from distill.config import (
    CacheConfig,
    ModelConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    ViewsConfig,
)
from distill.data.views.images import Batch, TrainingImages
from distill.data.views.pixels import make_views
from distill.errors import RunStopped, UserError
from distill.models.classifier import build_classifier
from distill.progress import Progress
from distill.strategies.objective import SOFTMAX, Sigmoid, make_objective
from distill.teaching.answers import Answers, Teacher
from distill.teaching.cache import CacheReader, Shard, complete_views
from distill.teaching.cache_build import build_shard, by_value, verify_cache
from distill.teaching.cache_check import code_versions
from distill.teaching.cache_identity import open_cache, weights_sha256
from distill.teaching.claims import Claims
from distill.teaching.teachers import CachedTeachers, LiveTeachers
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.teachers import build_caches, open_caches
from distill.training.trainer import Trainer
from distill.training.world import World

CPU = torch.device("cpu")
QUIET = Progress(quiet=True)
TINY = ModelConfig(
    name="compact", options={"width": [8, 16], "depth": [1, 1], "head_width": 0, "dropout": 0.2}
)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards per view, the last one shorter."""
    monkeypatch.setattr(module, "SHARD_ROWS", 25)
    monkeypatch.setattr("distill.teaching.cache_identity.SHARD_ROWS", 25)


def tiny(data, seed=0):
    torch.manual_seed(seed)
    return build_classifier(TINY, data.classes, data.spec, task=data.task)


def opinionated(data, seed):
    """A teacher whose logits differ from image to image, unlike those of untrained networks."""
    teacher = tiny(data, seed)
    with torch.no_grad():
        teacher.network.classifier.weight.mul_(30.0)
    return teacher


def make_job(data, tmp_path: Path, num_teachers=1, epochs=3, train=None, **cache) -> Job:
    config = RunConfig(
        name="tiny",
        model=TINY,
        strategy=StrategyConfig(name="vanilla"),
        train=TrainConfig(epochs=epochs, batch_size=16, lr=2e-3, **(train or {})),
        cache=CacheConfig(**cache),
    )
    teachers = [opinionated(data, seed + 1) for seed in range(num_teachers)]
    return Job(config, data, ViewsConfig(), 0, tmp_path / "run", teachers, cache=tmp_path / "cache")


def batch_of(job: Job, ids, view, share=None) -> Batch:
    ids = np.asarray(ids)
    images = job.images.view(ids, view, CPU)
    if share is not None:
        images = share * images + (1 - share) * images.roll(1, 0)
    return Batch(ids, view, images, torch.from_numpy(job.images.labels[ids]), share=share)


def test_what_is_cached_is_what_the_teachers_say_of_the_same_view(data, tmp_path):
    """Of shuffled images, of several teachers, across the borders of shards."""
    job = make_job(data, tmp_path, num_teachers=2, views=3)
    cached = CachedTeachers(build_caches(job, World(CPU), QUIET), CPU)
    live = LiveTeachers(job.teachers, CPU)
    for view in range(3):
        batch = batch_of(job, [40, 3, 24, 25, 62, 0], view)
        torch.testing.assert_close(cached(batch).logits, live(batch).logits, rtol=2e-3, atol=2e-3)


def test_other_views_and_other_images_have_other_logits(data, tmp_path):
    """What the test above would miss if the teacher said the same of everything."""
    job = make_job(data, tmp_path, views=2)
    (cache,) = build_caches(job, World(CPU), QUIET)
    reader, ids = CacheReader(cache), np.arange(20)
    first, second = reader.answers(ids, 0).logits, reader.answers(ids, 1).logits
    assert (first - second).abs().amax(dim=1).min() > 1e-3
    assert (first - first.roll(1, 0)).abs().amax(dim=1).min() > 1e-3


def test_each_image_may_be_asked_for_in_a_view_of_its_own(data, tmp_path, monkeypatch):
    """Across the borders of shards, and with fewer of them open than a batch needs."""
    job = make_job(data, tmp_path, views=3)
    (cache,) = build_caches(job, World(CPU), QUIET)
    ids, views = np.array([40, 3, 24, 3, 62, 3, 40]), np.array([0, 1, 2, 2, 0, 0, 1])
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    reader = CacheReader(cache)
    for _ in range(2):
        found = reader.answers(ids, views).logits
        assert len(reader._open) == 2
    apart = [
        CacheReader(cache).answers(ids[i : i + 1], int(views[i])).logits for i in range(len(ids))
    ]
    assert torch.equal(found, torch.cat(apart))
    live = LiveTeachers(job.teachers, CPU)(batch_of(job, ids, views)).logits
    torch.testing.assert_close(found, live[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "train", "adjustments"),
    [
        ("data", {}, ()),
        ("skewed", {"sampling": "balanced", "logit_adjustment": 1.0}, (0.5,)),
        ("multi_data", {"sampling": "balanced"}, (2.0,)),
    ],
)
def test_a_view_per_epoch_trains_what_live_teachers_train(
    request, tmp_path, name, train, adjustments
):
    """K = epochs is exact but for the rounding of logits to float16."""
    data = request.getfixturevalue(name)

    def losses(name: str, **cache):
        job = make_job(data, tmp_path, train=train, **cache)
        job = replace(job, folder=tmp_path / name, teacher_adjustments=adjustments)
        fit(tiny(data), job, CPU, QUIET)
        lines = (job.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["train/kd"] for line in lines]

    live, cached = losses("live", use=False), losses("cached", views="all")
    assert cached == pytest.approx(live, rel=1e-3)
    fewer = losses("fewer", views=1)
    if not train:  # else some are shown in their next view within the first epoch
        assert fewer[0] == cached[0]
    assert fewer[2] != pytest.approx(live[2], rel=5e-3)


@pytest.mark.parametrize("name", ["data", "multi_data"])
def test_what_is_said_of_all_images_is_said_of_mixed_ones(request, tmp_path, name):
    """The one teacher of whom mixed answers and answers to mixtures are the same."""
    data, found = request.getfixturevalue(name), []
    for use in (True, False):
        job = make_job(data, tmp_path, epochs=1, train={"mixup": 0.4}, use=use)
        with torch.no_grad():
            job.teachers[0].network.classifier.weight.zero_()
            job.teachers[0].network.classifier.bias.copy_(torch.tensor([2.0, -1.0, 0.5]))
        job = replace(job, folder=tmp_path / str(use))
        fit(tiny(data), job, CPU, QUIET)
        found.append(json.loads((job.folder / "metrics.jsonl").read_text())["train/kd"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_views_cycle_over_the_epochs(data, tmp_path):
    job = make_job(data, tmp_path, views=2)
    assert views_of(job, range(5)) == [{0}, {1}, {0}, {1}, {0}]
    assert views_of(replace(job, cache=None), range(3)) == [{0}, {1}, {2}]  # live teachers
    assert views_of(replace(job, teachers=()), range(3)) == [{0}, {1}, {2}]  # or none


def views_of(job: Job, epochs) -> list[set[int]]:
    """The views that the batches of each epoch are of."""
    trainer = Trainer(tiny(job.data), job, World(CPU), None)
    return [
        {int(view) for batch in trainer.batches(epoch) for view in np.atleast_1d(batch.view)}
        for epoch in epochs
    ]


def test_an_image_that_is_drawn_again_takes_the_next_of_the_stored_views(skewed, tmp_path):
    job = make_job(skewed, tmp_path, epochs=9, train={"sampling": "balanced"}, views=3)
    trainer = Trainer(tiny(skewed), job, World(CPU), None)
    repeats = 0
    for batch in trainer.batches(5):
        assert np.array_equal(batch.view, (5 + batch.repeats) % 3)
        repeats = max(repeats, int(batch.repeats.max()))
    assert repeats == 3  # twelve draws of three images


@pytest.mark.parametrize(("views", "epochs", "expected"), [(8, 3, 3), ("all", 5, 5), (2, 5, 2)])
def test_there_are_never_more_views_than_epochs(data, tmp_path, views, epochs, expected):
    assert make_job(data, tmp_path, epochs=epochs, views=views).config.cached_views == expected


def test_no_views_is_an_error_before_anything_is_done():
    with pytest.raises(ValueError, match="views"):
        CacheConfig(views=0)


def files(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_workers_share_the_work_and_repeating_them_does_nothing(data, tmp_path):
    job = make_job(data, tmp_path, views=2)
    build_caches(job, World(CPU), QUIET, part=0, parts=2)
    (half,) = open_caches(job)
    assert len(half.missing(range(2))) == 3  # 6 shards: 66 images in 3 shards, 2 views
    (cache,) = build_caches(job, World(CPU), QUIET, part=1, parts=2)
    assert not cache.missing(range(2))
    before = files(cache.folder)
    build_caches(job, World(CPU), QUIET)
    assert files(cache.folder) == before
    assert sorted(before) == ["cache.json", *sorted(s.file_name for s in cache.shards([0, 1]))]


def test_killed_while_writing_leaves_nothing_that_counts(data, tmp_path, monkeypatch):
    """A shard is in its place whole or not at all; the next call computes only what is left."""
    job, saved = make_job(data, tmp_path, views=2), np.save
    calls = {"left": 2}

    def dying(file, rows):
        calls["left"] -= 1
        if calls["left"] < 0:
            file.write(b"\x93NUMPY half of it")
            raise KeyboardInterrupt
        saved(file, rows)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            build_caches(job, World(CPU), QUIET)
    (cache,) = open_caches(job)
    assert len(cache.missing(range(2))) == 4
    assert not list(cache.folder.glob("*.tmp"))
    kept = files(cache.folder)
    build_caches(job, World(CPU), QUIET)
    after = files(cache.folder)
    assert not cache.missing(range(2))
    assert all(after[n] == kept[n] for n in kept if n != "cache.json")


def test_more_views_are_added_to_those_there_are(data, tmp_path):
    (cache,) = build_caches(make_job(data, tmp_path, views=1), World(CPU), QUIET)
    before = files(cache.folder)
    (same,) = build_caches(make_job(data, tmp_path, views=3), World(CPU), QUIET)
    assert same.folder == cache.folder
    assert complete_views(same) == [0, 1, 2]
    assert {n: t for n, t in files(same.folder).items() if n in before and n != "cache.json"} == {
        n: t for n, t in before.items() if n != "cache.json"
    }


@pytest.mark.parametrize("damage", ["truncated", "deleted", "other shape"])
def test_a_shard_that_is_not_whole_is_computed_again(data, tmp_path, damage):
    job = make_job(data, tmp_path, views=1)
    (cache,) = build_caches(job, World(CPU), QUIET)
    file = cache.folder / Shard(0, 25, 50).file_name
    whole = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(whole[:-10])
    elif damage == "deleted":
        file.unlink()
    else:
        np.save(file, np.zeros((25, 7), dtype=np.float16))
    assert [shard.start for shard in cache.missing([0])] == [25]
    build_caches(job, World(CPU), QUIET)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_a_cache_damaged_under_a_running_job_stops_it_resumably(
    data, tmp_path, monkeypatch, damage
):
    """A mapped file that shrinks would kill the process with SIGBUS."""
    whole_run = replace(make_job(data, tmp_path, views=2), folder=tmp_path / "whole")
    fit(tiny(data), whole_run, CPU, QUIET)
    job = make_job(data, tmp_path, views=2)
    (cache,) = open_caches(job)
    file = cache.folder / Shard(1, 0, 25).file_name

    import distill.training.fit as loop

    begin_epoch = loop.Trainer.begin_epoch

    def harmful(self, epoch):
        if epoch == 1 and damage == "deleted":
            file.unlink()
        elif epoch == 1:
            file.write_bytes(file.read_bytes()[:100])
        begin_epoch(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "begin_epoch", harmful)
        with pytest.raises(RunStopped, match="repeat the command"):
            fit(tiny(data), job, CPU, QUIET)
    fit(tiny(data, seed=7), job, CPU, QUIET)
    resumed = load_file(job.folder / "best.safetensors")
    whole = load_file(whole_run.folder / "best.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_shard_cut_short_between_two_batches_is_noticed(data, tmp_path):
    (cache,) = build_caches(make_job(data, tmp_path, views=1), World(CPU), QUIET)
    reader = CacheReader(cache)
    reader.answers(np.arange(4), 0)
    with (cache.folder / Shard(0, 0, 25).file_name).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(RunStopped, match="cut short"):
        reader.answers(np.arange(4), 0)


def other(job: Job, **changes) -> Job:
    return replace(job, **changes)


def test_the_same_weights_in_another_network_are_another_teacher(data, tmp_path):
    """The name hashed weights only: a SqueezeNet whose head changed read its old logits."""

    class Halved(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.inner = network

        def forward(self, x):
            return self.inner(x).clamp(min=0.0)  # as with a last ReLU

        def state_dict(self, *arguments, **options):
            return self.inner.state_dict(*arguments, **options)

    job = make_job(data, tmp_path)
    teacher = opinionated(data, 1)
    other = replace(job, teachers=[teacher])
    (before,) = open_caches(other)
    teacher.network = Halved(teacher.network)
    (after,) = open_caches(other)
    assert weights_sha256(teacher) == before.identity["teacher"]["weights_sha256"]
    assert after.folder != before.folder
    changed = {key for key in before.identity if before.identity[key] != after.identity[key]}
    assert changed == {"teacher"}


def test_other_code_of_the_views_makes_another_cache(data, tmp_path, monkeypatch):
    job = make_job(data, tmp_path)
    (before,) = open_caches(job)
    blurry = lambda *arguments: 0.9 * make_views(*arguments)  # noqa: E731
    monkeypatch.setattr(images_module, "make_views", blurry)
    (after,) = open_caches(job)
    assert after.folder != before.folder


def test_layout_and_threads_do_not_change_the_name(data, tmp_path):
    teacher = opinionated(data, 1)
    job = replace(make_job(data, tmp_path), teachers=[teacher])
    (before,) = open_caches(job)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        laid_out = teacher.to(memory_format=torch.channels_last).requires_grad_(False)
        (after,) = open_caches(replace(job, teachers=[laid_out]))
    finally:
        torch.set_num_threads(threads)
    assert after.folder == before.folder


@pytest.mark.parametrize("what", ["views", "seed", "weights", "images", "normalisation", "top_k"])
def test_whatever_logits_depend_on_makes_another_cache(data, tmp_path, what):
    job = make_job(data, tmp_path)
    train = data.train
    fewer = replace(
        train,
        stored=train.pixels[::-1],
        labels=train.labels[::-1],
        names=train.names[::-1],
        digests=train.digests[::-1],
    )
    teacher = opinionated(data, 1)
    teacher.contract = teacher.contract.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    changed = {
        "views": other(job, views=ViewsConfig(flip=0.0)),
        "seed": other(job, seed=1),
        "weights": other(job, teachers=[opinionated(data, 2)]),
        "images": other(job, data=replace(data, splits={**data.splits, "train": fewer})),
        "normalisation": other(job, teachers=[teacher]),
        "top_k": make_job(data, tmp_path, top_k=2),
    }[what]
    (one,), (two,) = open_caches(job), open_caches(changed)
    assert one.folder != two.folder
    assert one.folder == open_caches(make_job(data, tmp_path))[0].folder


def test_options_of_the_student_leave_the_cache_as_it_is(data, tmp_path):
    job = make_job(data, tmp_path)
    train = job.config.train.model_copy(update={"lr": 0.5, "mixup": 0.2, "batch_size": 8})
    changed = other(job, config=job.config.model_copy(update={"train": train, "name": "b"}))
    assert open_caches(job)[0].folder == open_caches(changed)[0].folder


def test_a_cache_moved_to_the_place_of_another_is_refused_with_the_reason(data, tmp_path):
    (cache,) = build_caches(make_job(data, tmp_path, views=1), World(CPU), QUIET)
    job = other(make_job(data, tmp_path, views=1), views=ViewsConfig(flip=0.0))
    (wanted,) = open_caches(job)
    shutil.move(cache.folder, wanted.folder)
    with pytest.raises(UserError, match=r"views\.flip"):
        build_caches(job, World(CPU), QUIET)


def test_verify_finds_logits_that_the_teacher_did_not_say(data, tmp_path):
    job = make_job(data, tmp_path, views=2)
    (cache,) = build_caches(job, World(CPU), QUIET)
    model = job.teachers[0]
    found = verify_cache(cache, model, job.images, CPU)
    assert found["views"] == 2
    assert found["samples"] == 2 * 64
    assert found["max_difference"] < 0.01
    shard = Shard(1, 0, 25)
    said = np.load(cache.folder / shard.file_name)
    (cache.folder / shard.file_name).unlink()
    cache.write_shard(shard, np.roll(said, 1, axis=0))  # joined to the wrong images
    with pytest.raises(UserError, match="view 1 of image"):
        verify_cache(cache, model, job.images, CPU)
    np.save(cache.folder / shard.file_name, said)
    with pytest.raises(UserError, match="changed since it was written"):
        verify_cache(cache, model, job.images, CPU)


def test_near_ties_of_kept_logits_compare_as_equal():
    """Other kernels kept the other of two classes, and the cache was told to be damaged."""
    said = Answers(torch.tensor([[5.0, 3.0, 3.0 - 1e-4, 0.0]]))
    one = Answers(torch.tensor([[5.0, 3.0, 1.0, 1.0]]))
    other = Answers(torch.tensor([[5.0, 1.0, 3.0 - 1e-4, 1.0]]))
    tied = (by_value(answers, said).logits for answers in (one, other))
    torch.testing.assert_close(*tied, atol=1e-3, rtol=0)
    wrong = Answers(torch.tensor([[5.0, 1.0, 1.0, 3.0]]))  # of a class that has 0
    assert (by_value(wrong, said).logits - by_value(one, said).logits).abs().max() > 1.0


def test_no_room_is_said_before_anything_is_computed(data, tmp_path, monkeypatch):
    job = make_job(data, tmp_path, views=2)
    free = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(RunStopped, match="make room"):
        build_caches(job, World(CPU), QUIET)
    assert not list(job.cache.rglob("*.npy"))


def test_a_disk_that_fills_up_stops_and_leaves_no_half_shard(data, tmp_path, monkeypatch):
    job = make_job(data, tmp_path, views=1)

    def full(self, content):
        with self.open("wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunStopped, match="no space left"):
        build_caches(job, World(CPU), QUIET)
    assert not [p for p in job.cache.rglob("*") if p.suffix in (".npy", ".tmp")]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("mishap", ["gone", "read-only"])
def test_a_folder_that_goes_away_stops_and_repeating_continues(
    data, tmp_path, monkeypatch, mishap, many
):
    job = make_job(data, tmp_path, views=2)
    (reference,) = build_caches(replace(job, cache=tmp_path / "alone"), World(CPU), QUIET)
    calls, away = {"left": 3}, tmp_path / "away"

    def fails(self, *arguments):
        calls["left"] -= 1
        if calls["left"] == 0 and mishap == "gone":
            job.cache.rename(away)  # as a disk that is unmounted leaves an empty place
        if calls["left"] == 0 and mishap == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(job.cache))
        return original(self, *arguments)

    method = "pack" if mishap == "gone" else "write_shard"
    original = getattr(module.TeacherCache, method)

    def build() -> None:
        claims = Claims(Folder(job.cache / "claims"), 0.2) if many else None
        build_caches(job, World(CPU), QUIET, claims=claims)

    with monkeypatch.context() as patch:
        patch.setattr(module.TeacherCache, method, fails)
        with pytest.raises(RunStopped, match=r"out of reach.*repeat the command, which continues"):
            build()
    assert not job.cache.exists() or mishap == "read-only"  # it is not made anew
    if mishap == "gone":
        away.rename(job.cache)
    build()
    (cache,) = open_caches(job)
    assert contents(cache.folder) == contents(reference.folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_versions_of_the_code_are_in_the_name_of_a_cache(data, tmp_path):
    (cache,) = open_caches(make_job(data, tmp_path))
    now = code_versions() | {"shard_rows": 25}  # as this file has them
    assert {key: cache.identity[key] for key in now} == now
    assert set(cache.identity) - set(now) == {
        *("top_k", "teacher", "images_sha256", "views", "seed", "size")
    }


def test_top_k_is_refused_where_labels_are_independent(multi_data, tmp_path):
    job = make_job(multi_data, tmp_path, top_k=1)
    with pytest.raises(UserError, match="a probability of its own") as caught:
        open_caches(job)
    assert caught.value.where == "cache.top_k"


class TestTopK:
    """Storage of many classes: the largest logits and one for all others."""

    def cache(self, data, tmp_path, top_k, classes=200):
        images = TrainingImages((data.train,), data.classes, ViewsConfig(), 0, 32)
        names = tuple(f"c{i}" for i in range(classes))
        teacher = build_classifier(TINY, names, data.spec)
        return open_cache(teacher, "t", images, tmp_path, top_k)

    def test_kept_probabilities_are_exact_and_the_rest_is_even(self, data, tmp_path):
        cache = self.cache(data, tmp_path, 5)
        logits = 4 * torch.randn(10, 200, generator=torch.Generator().manual_seed(0))
        found = cache.unpack(cache.pack(Answers(logits))).logits.softmax(dim=1)
        probs = logits.softmax(dim=1)
        values, classes = probs.topk(5, dim=1)
        torch.testing.assert_close(found.gather(1, classes), values, rtol=0.02, atol=1e-4)
        rest = found.scatter(1, classes, 0.0)
        even = (1 - values.sum(1, keepdim=True)) / 195
        expected = even.expand(-1, 200).scatter(1, classes, 0.0)
        torch.testing.assert_close(rest, expected, rtol=0.02, atol=1e-5)

    def test_a_row_is_smaller(self, data, tmp_path):
        # 6 float16 logits and 5 uint16 classes against 200 float16 logits
        assert self.cache(data, tmp_path, 5).empty_rows(1).nbytes == 6 * 2 + 5 * 2
        assert self.cache(data, tmp_path, 0).empty_rows(1).nbytes == 400

    def test_it_survives_the_disk(self, data, tmp_path):
        cache = self.cache(data, tmp_path, 5)
        images = TrainingImages((data.train,), data.classes, ViewsConfig(), 0, 32)
        names = tuple(f"c{i}" for i in range(200))
        torch.manual_seed(0)
        teacher = Teacher(build_classifier(TINY, names, data.spec), CPU)
        cache.folder.mkdir(parents=True)
        build_shard(cache, Shard(0, 0, 25), teacher, images, CPU)
        ids = np.array([7, 3])
        rows = cache.open_shard(Shard(0, 0, 25))[ids]
        fresh = teacher(images.view(ids, 0, CPU)).logits
        assert torch.equal(rows_classes(rows), fresh.topk(5, dim=1).indices)

    def test_as_many_as_classes_is_an_error(self, data, tmp_path):
        with pytest.raises(UserError, match=r"cache\.top_k"):
            self.cache(data, tmp_path, 200)


def rows_classes(rows) -> torch.Tensor:
    return torch.from_numpy(rows["classes"].astype(np.int64))


def test_logits_beyond_float16_stay_finite(data, tmp_path):
    (cache,) = open_caches(make_job(data, tmp_path))
    logits = torch.tensor([[1e6, -1e6, 0.0]])
    assert torch.isfinite(cache.unpack(cache.pack(Answers(logits))).logits).all()


def test_mixed_logits_are_mixed_probabilities():
    logits = torch.randn(2, 5, 3, dtype=torch.float64)
    found = SOFTMAX.mixed(logits, 0.3).softmax(dim=-1)
    probs = logits.softmax(dim=-1)
    expected = 0.3 * probs + 0.7 * probs[:, [4, 0, 1, 2, 3]]
    torch.testing.assert_close(found, expected)


def test_mixed_logits_of_several_labels_are_mixed_probabilities_of_each():
    logits = torch.randn(2, 5, 3, dtype=torch.float64)
    found = Sigmoid().mixed(logits, 0.3).sigmoid()
    probs = logits.sigmoid()
    torch.testing.assert_close(found, 0.3 * probs + 0.7 * probs[:, [4, 0, 1, 2, 3]])
    # 3/4 and 1/4 in equal parts are 1/2, whose logit is 0.
    pair = torch.tensor([[[math.log(3)], [-math.log(3)]]])
    torch.testing.assert_close(Sigmoid().mixed(pair, 0.5), torch.zeros(1, 2, 1))


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_mixtures_of_extreme_logits_stay_finite(task, share):
    sure = torch.tensor([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]])
    assert torch.isfinite(make_objective(task).mixed(sure, share)).all()


def test_a_mixed_batch_gets_the_mixture_of_what_was_said_of_each(data, tmp_path):
    job = make_job(data, tmp_path, views=1)
    cached = CachedTeachers(build_caches(job, World(CPU), QUIET), CPU)
    plain = cached(batch_of(job, [5, 6, 7], 0)).logits.softmax(dim=-1)
    mixed = cached(batch_of(job, [5, 6, 7], 0, share=0.25)).logits.softmax(dim=-1)
    expected = 0.25 * plain + 0.75 * plain[:, [2, 0, 1]]
    torch.testing.assert_close(mixed, expected)


def test_the_cache_says_what_it_is(data, tmp_path):
    (cache,) = build_caches(make_job(data, tmp_path, views=1), World(CPU), QUIET)
    stored = json.loads((cache.folder / "cache.json").read_text())
    assert stored["identity"]["views"] == ViewsConfig().model_dump(mode="json")
    assert stored["identity"]["teacher"]["classes"] == list(data.classes)
    assert stored["count"] == 66


def test_a_teacher_that_says_nothing_finite_is_refused(data, tmp_path):
    job = make_job(data, tmp_path, views=1)
    with torch.no_grad():
        job.teachers[0].network.classifier.bias.fill_(float("nan"))
    with pytest.raises(RunStopped, match="not finite"):
        build_caches(job, World(CPU), QUIET)
    assert not list(job.cache.rglob("*.npy"))

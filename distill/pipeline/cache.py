"""What `distill cache` does: the teacher caches of an experiment, built, verified and listed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from distill.buckets import Folder
from distill.data.sources import tell
from distill.data.views.images import TrainingImages
from distill.errors import UserError
from distill.files import read_json
from distill.mirror import bucket_of
from distill.models.classifier import Classifier
from distill.pipeline.experiment import Experiment
from distill.pipeline.jobs import load_job
from distill.pipeline.runs import student_runs, taught_by
from distill.pipeline.train import begin
from distill.teaching.answers import Teacher
from distill.teaching.cache import CacheFile, Shard, TeacherCache, shard_sizes
from distill.teaching.cache_build import (
    build_shard,
    describe_cache,
    in_reach,
    seconds_per_image,
    stored_bytes,
    verify_cache,
)
from distill.teaching.cache_check import check_alike, check_version
from distill.teaching.claims import Claims
from distill.training.job import Job
from distill.training.teachers import build_caches, open_caches
from distill.training.world import joined


def cached_jobs(experiment: Experiment) -> Iterator[Job]:
    """The jobs that read teacher caches, their teachers loaded.

    Raises:
        UserError: No student of the recipe reads a cache, or a teacher is not trained yet.
    """
    has_jobs = False
    for config in student_runs(experiment.recipe):
        reads = config.cache.use and config.engine == "distill"
        if reads and taught_by(experiment, config):
            has_jobs = True
            yield load_job(experiment, config)
    if not has_jobs:
        where, hint = str(experiment.out), "give one a teacher, and cache.use=true"
        raise UserError("no student of this recipe reads a teacher cache", where, hint)


def shared_jobs(experiment: Experiment) -> list[Job]:
    """The jobs of `cached_jobs`, for one of several workers that share their caches.

    Raises:
        UserError: Others are at work on what would be other caches to this one.
    """
    check_version(experiment.out / "cache")
    jobs = list(cached_jobs(experiment))
    caches = [cache for job in jobs for cache in open_caches(job)]
    check_alike(caches, max(job.config.cached_views for job in jobs))
    return jobs


def build_experiment(
    experiment: Experiment, part: int, parts: int, lease_s: float | None = None
) -> None:
    """Computes what the caches of all students lack, or one of several parts of it.

    Args:
        lease_s: Shares the work with others that do the same, shard by shard, see `Claims`.
    """
    with joined(experiment.device) as world:
        with world.main_first():  # the others find the images decoded
            experiment.data, experiment.extra  # noqa: B018
        tell(experiment.source, experiment.progress.say)
        begin(experiment)
        place = experiment.out / "cache" / "claims"
        claims = Claims(bucket_of(place) or Folder(place), lease_s) if lease_s else None
        is_shared = claims is not None or parts > 1
        for job in shared_jobs(experiment) if is_shared else cached_jobs(experiment):
            build_caches(job, world, experiment.progress, part, parts, claims)
            world.wait()
            missing = sum(len(c.missing(range(job.config.cached_views))) for c in open_caches(job))
            state = "complete" if not missing else f"{missing} shards are left to other parts"
            experiment.progress.say(f"{job.config.name}: teacher logits: {state}")


class ShardBuilder:
    """The shards of an experiment's caches by name, for whoever hands them out one by one.

    Args:
        experiment: Its teachers are trained; its data are decoded where they are not.
    """

    def __init__(self, experiment: Experiment) -> None:
        experiment.data, experiment.extra  # noqa: B018
        self._device = experiment.device
        self._known: dict[str, tuple[TeacherCache, Shard, Classifier, TrainingImages]] = {}
        for job in shared_jobs(experiment):
            for cache, teacher in zip(open_caches(job), job.teachers, strict=True):
                describe_cache(cache)
                for shard in cache.shards(range(job.config.cached_views)):
                    name = f"{cache.folder.name}/{shard.file_name}"
                    self._known.setdefault(name, (cache, shard, teacher, job.images))

    def missing(self) -> list[str]:
        """Names of those that are still to be computed."""
        names = []
        for folder, known in groupby(self._known.values(), lambda one: one[0].folder.name):
            (cache, *_), *_ = together = list(known)
            absent = cache.absent((shard for _, shard, *_ in together), by_content=True)
            names += [f"{folder}/{shard.file_name}" for shard in absent]
        return names

    def build(self, name: str) -> None:
        """Computes one, unless it is there."""
        cache, shard, teacher, images = self._known[name]
        with in_reach(cache):
            if cache.absent([shard], by_content=True):
                asked = Teacher(teacher, self._device, cache.features > 0)
                build_shard(cache, shard, asked, images, self._device)


def plan_experiment(experiment: Experiment, price_per_hour: float | None) -> list[dict[str, Any]]:
    """What the caches of all students take: shards, bytes, and time by a teacher's pace here.

    Args:
        price_per_hour: Of a machine such as this one.

    Returns:
        For each cache `teacher`, `images`, `views`, `shards`, `missing_shards`, `size_bytes` and
        `hours` of all of them, `hours_left`, `hours_per_million` answers, and with a price `price`,
        `price_left` and `price_per_million`.
    """
    rows: dict[Path, dict[str, Any]] = {}
    for job in cached_jobs(experiment):
        for cache, teacher in zip(open_caches(job), job.teachers, strict=True):
            asked = Teacher(teacher, experiment.device, cache.features > 0)
            hours = seconds_per_image(asked, job.images, experiment.device) / 3600.0
            shards = list(cache.shards(range(job.config.cached_views)))
            missing = cache.missing(range(job.config.cached_views))
            answers, left = (sum(s.stop - s.start for s in some) for some in (shards, missing))
            row: dict[str, Any] = {
                "teacher": cache.name,
                "folder": str(cache.folder),
                "images": cache.count,
                "views": job.config.cached_views,
                "shards": len(shards),
                "missing_shards": len(missing),
                "size_bytes": stored_bytes(cache, shards),
                "hours": hours * answers,
                "hours_left": hours * left,
                "hours_per_million": hours * 1e6,
            }
            if price_per_hour is not None:
                row["price"] = price_per_hour * row["hours"]
                row["price_left"] = price_per_hour * row["hours_left"]
                row["price_per_million"] = price_per_hour * row["hours_per_million"]
            known = rows.get(cache.folder)
            if known is None or known["views"] < row["views"]:  # students share their caches
                rows[cache.folder] = row
    return list(rows.values())


def verify_experiment(experiment: Experiment, samples: int) -> list[dict[str, Any]]:
    """Recomputes a random sample of every view of every cache that the students read.

    Raises:
        UserError: A stored number is not what the teacher says.
    """
    rows = {}
    for job in cached_jobs(experiment):
        for cache, teacher in zip(open_caches(job), job.teachers, strict=True):
            measured = verify_cache(cache, teacher, job.images, experiment.device, samples)
            row = {"teacher": cache.name, "folder": str(cache.folder), **measured}
            rows[cache.folder] = row
    return list(rows.values())


def list_caches(out: Path) -> list[dict[str, Any]]:
    """The caches of an experiment: teacher, images, views begun, bytes, and all they depend on."""
    rows = []
    for file in sorted((out / "cache").glob("logits-*/cache.json")):
        stored, shards = read_json(file, CacheFile), shard_sizes(file.parent)
        rows.append(
            {
                "teacher": stored["teacher"],
                "folder": str(file.parent),
                "images": stored["count"],
                "views": len({name.split("-")[1] for name in shards}),
                "shards": len(shards),
                "size_bytes": sum(shards.values()),
                "identity": stored["identity"],
            }
        )
    return rows

"""Who teaches a job: its teachers in every step, or caches of their answers."""

from __future__ import annotations

import torch

from distill.progress import Progress
from distill.strategies.objective import make_objective
from distill.teaching.cache import TeacherCache
from distill.teaching.cache_build import build_missing
from distill.teaching.cache_identity import open_cache
from distill.teaching.claims import Claims
from distill.teaching.teachers import CachedTeachers, LiveTeachers, Teachers
from distill.training.job import Job
from distill.training.world import World


def live_teachers(job: Job, device: torch.device) -> LiveTeachers | None:
    """The teachers of a job, to be asked in every step; None where nobody teaches."""
    if not job.teachers:
        return None
    return LiveTeachers(job.teachers, device, job.teacher_offsets, job.needs_features)


def open_caches(job: Job) -> list[TeacherCache]:
    """The caches of a job's teachers, in their order."""
    assert job.cache is not None
    return [
        open_cache(teacher, name, job.images, job.cache, job.config.cache.top_k, job.needs_features)
        for teacher, name in zip(job.teachers, job.teacher_names, strict=True)
    ]


def build_caches(
    job: Job,
    world: World,
    progress: Progress,
    part: int = 0,
    parts: int = 1,
    claims: Claims | None = None,
) -> list[TeacherCache]:
    """Computes what a job's caches lack, the processes sharing it; says first what that will take.

    Args:
        part, parts: Do each `parts`-th shard only, beginning with number `part`. Workers that do
            the same shard publish one of them.
        claims: Of this worker, among others that share the work as they come.

    Raises:
        RunStopped: The disk has no room for it.
    """
    caches = world.from_main(open_caches(job))
    first, step = part * world.size + world.rank, parts * world.size
    for cache, teacher in zip(caches, job.teachers, strict=True):
        own_shards = list(cache.shards(range(job.config.cached_views)))[first::step]
        todo = cache.absent(own_shards, by_content=True)
        if todo:
            build_missing(cache, todo, teacher, job.images, world.device, progress, claims)
    return caches


def open_teachers(job: Job, world: World, progress: Progress) -> Teachers | None:
    """Who teaches: models, or a cache of theirs, which the processes complete together."""
    if not job.is_cached:
        return live_teachers(job, world.device)
    caches = build_caches(job, world, progress)
    world.wait()
    return CachedTeachers(caches, world.device, make_objective(job.data.task), job.teacher_offsets)

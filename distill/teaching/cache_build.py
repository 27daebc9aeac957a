"""Filling teacher caches, and checking what is in them.

A shard is written beside its place and put there if nobody was faster. So any number of workers
may be killed at any moment, repeating them finishes the work, and no two publish different ones.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.data.views.images import TrainingImages, read_ahead
from distill.errors import RunStopped, UserError
from distill.files import NO_SPACE, differing_keys, read_json, write_json
from distill.models.classifier import Classifier
from distill.progress import Progress, span
from distill.teaching.answers import Answers, Teacher
from distill.teaching.cache import (
    CacheFile,
    CacheReader,
    Shard,
    TeacherCache,
    complete_views,
    shard_sizes,
)
from distill.teaching.claims import Claims

TOLERANCE = 0.02  # of a logit, or of its size if that is larger: float16, and other kernels


def build_missing(
    cache: TeacherCache,
    todo: Sequence[Shard],
    teacher: Classifier,
    images: TrainingImages,
    device: torch.device,
    progress: Progress,
    claims: Claims | None = None,
) -> None:
    """Computes these shards of a teacher's cache; says first what that will take.

    Args:
        claims: Shared with other workers that do the same shards: each is done by one of them.

    Raises:
        RunStopped: The disk has no room for it, or the folder is out of reach.
    """
    _announce_others(cache, progress)
    _check_room(cache, todo)
    describe_cache(cache)
    asked = Teacher(teacher, device, cache.features > 0)
    total = sum(shard.stop - shard.start for shard in todo)
    seconds = total * seconds_per_image(asked, images, device)
    progress.say(
        f"{cache.name}: logits of {cache.count:,} images in {len({s.view for s in todo})} views, "
        f"{stored_bytes(cache, todo) / 1e6:,.1f} MB, about {span(seconds)}"
    )
    with progress.task(f"{cache.name}: logits", total, "images") as task, in_reach(cache):
        for shard in todo if claims is None else claimed(cache, todo, claims):
            build_shard(cache, shard, asked, images, device, task.advance)


def describe_cache(cache: TeacherCache) -> None:
    """Writes what a cache is of, beside its shards."""
    described = {"identity": cache.identity, "teacher": cache.name, "count": cache.count}
    write_json(cache.folder / "cache.json", described)
    if cache.bucket is not None:
        cache.bucket.upload(cache.folder / "cache.json", "cache.json")


def claimed(cache: TeacherCache, todo: Sequence[Shard], claims: Claims) -> Iterator[Shard]:
    """Those of the shards that are ours to do, each claimed meanwhile, until all are there.

    A worker begins at a place of its own, so that few want the same shard at the same time. What
    others publish meanwhile is believed: reading it whole would take each worker all that there is.
    """
    first = zlib.crc32(claims.owner.encode()) % max(1, len(todo))
    left = [*todo[first:], *todo[:first]]
    damaged = {*left} - {*cache.absent(left)}  # they are there, but not whole

    def is_there(shard: Shard) -> bool:
        return not cache.absent([shard], by_content=shard in damaged)

    while left:
        is_idle = True
        for shard in left:
            if is_there(shard):
                continue
            with claims.held(f"{cache.folder.name}-{shard.file_name}") as is_ours:
                if is_ours and not is_there(shard):
                    is_idle = False
                    yield shard
        suspects = [shard for shard in left if shard in damaged]
        left = cache.absent(shard for shard in left if shard not in damaged)
        left += cache.absent(suspects, by_content=True)
        if left and is_idle:
            claims.wait()
    begin = f"{cache.folder.name}-"
    claims.clear(begin, {f"{begin}{name}" for name in shard_sizes(cache.folder)})


@contextlib.contextmanager
def in_reach(cache: TeacherCache) -> Iterator[None]:
    """Raises RunStopped where the cache's folder cannot be read or written any more."""
    try:
        yield
    except OSError as error:
        if error.errno in (*NO_SPACE, errno.EMFILE):  # which are this machine's own
            raise
        what = f"the cache is out of reach: {error.strerror or error}"
        hint = "bring its folder back, then repeat the command, which continues"
        raise RunStopped(what, str(cache.folder), hint) from None


def build_shard(
    cache: TeacherCache,
    shard: Shard,
    teacher: Teacher,
    images: TrainingImages,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Computes one shard and puts it in its place.

    Args:
        advance: Told how many more images are done.

    Raises:
        RunStopped: The teacher's logits are not finite, or the disk is full.
        OSError: The folder is gone, which is not made anew: it may be a disk that is away.
    """
    chunks = []
    size = batch_size(device)
    starts = range(shard.start, shard.stop, size)
    parts = (np.arange(start, min(start + size, shard.stop)) for start in starts)
    with ThreadPoolExecutor(1, "ahead") as pool:
        is_cpu = device.type == "cpu"  # whose cores are the teacher's otherwise
        plainly = ((ids, images.pixels(ids)) for ids in parts)
        for ids, pixels in plainly if is_cpu else read_ahead(images.pixels, parts, pool):
            answers = teacher(images.augment(pixels, ids, shard.view, device))
            if not all(torch.isfinite(said).all() for said in answers if said is not None):
                raise RunStopped("its logits are not finite", cache.name, "train it again")
            chunks.append(cache.pack(answers))
            advance(len(ids))
    cache.folder.stat()
    cache.write_shard(shard, np.concatenate(chunks))


def batch_size(device: torch.device) -> int:
    """Images that a teacher is asked about at a time; more are no faster on a CPU."""
    return 64 if device.type == "cpu" else 512


def seconds_per_image(teacher: Teacher, images: TrainingImages, device: torch.device) -> float:
    """Time of the teacher on one view of one image, its batch and its views included."""
    ids = np.arange(min(batch_size(device), len(images)))
    teacher(images.view(ids, 0, device)).logits.cpu()  # the first call allocates
    start = time.perf_counter()
    teacher(images.view(ids, 0, device)).logits.cpu()
    return (time.perf_counter() - start) / len(ids)


def stored_bytes(cache: TeacherCache, shards: Sequence[Shard]) -> int:
    """Size of these shards on disk, less their headers."""
    return sum(shard.stop - shard.start for shard in shards) * cache.empty_rows(1).nbytes


def _check_room(cache: TeacherCache, todo: Sequence[Shard]) -> None:
    cache.folder.mkdir(parents=True, exist_ok=True)
    needed, free = stored_bytes(cache, todo), shutil.disk_usage(cache.folder).free
    if needed > free:
        raise RunStopped(
            f"the logits of {cache.name} need {needed / 1e6:,.1f} MB, free are {free / 1e6:,.1f}",
            str(cache.folder),
            "make room, lower cache.views or set cache.top_k",
        )


def _announce_others(cache: TeacherCache, progress: Progress) -> None:
    """Says why caches of the same teacher's name are of no use here."""
    for file in sorted(cache.folder.parent.glob("logits-*/cache.json")):
        stored = read_json(file, CacheFile)
        changed = differing_keys(stored["identity"], cache.identity)
        if changed and stored["teacher"] == cache.name:
            progress.say(f"{cache.name}: {file.parent} is of other {', '.join(changed)}: not used")


def verify_cache(
    cache: TeacherCache,
    teacher: Classifier,
    images: TrainingImages,
    device: torch.device,
    samples: int = 64,
) -> dict[str, Any]:
    """Recomputes a random sample of every stored view and compares.

    Args:
        samples: Images per view, the same ones each time.

    Returns:
        `views` that are complete, `samples` compared, and `max_difference` of what is stored.

    Raises:
        UserError: A stored number is not what the teacher says, off by more than `TOLERANCE`; or
            a shard is not as it was written.
    """
    rng = np.random.default_rng(0)
    views = complete_views(cache)
    asked = Teacher(teacher, device, cache.features > 0)
    worst, compared = 0.0, 0
    for shard in cache.shards(views):
        if not cache.is_whole(shard):
            what = f"{shard.file_name} was changed since it was written"
            raise UserError(what, str(cache.folder), "remove this file and build it again")
    for view in views:
        ids = np.sort(rng.choice(cache.count, min(samples, cache.count), replace=False))
        said = asked(images.view(ids, view, device))
        answers = CacheReader(cache).answers(ids, view), cache.unpack(cache.pack(said))
        if cache.top_k:
            answers = by_value(answers[0], said), by_value(answers[1], said)
        stored, fresh = map(joined, answers)
        difference = (stored - fresh).abs() / (1.0 + fresh.abs())
        worst, compared = max(worst, float(difference.max())), compared + len(ids)
        if worst > TOLERANCE:
            row = int(difference.amax(dim=1).argmax())
            what = f"view {view} of image {ids[row]} is off by {worst:.3g}"
            raise UserError(what, str(cache.folder), "remove this folder and build it again")
    return {"views": len(views), "samples": compared, "max_difference": worst}


def by_value(answers: Answers, said: Answers) -> Answers:
    """Answers of which the largest logits were kept, so that near ties compare as equal.

    Other kernels keep the other of two classes then: the sorted logits are the same still, and
    those that were kept are what the teacher `said` of these classes.
    """
    logits = answers.logits
    kept = logits > logits.amin(dim=1, keepdim=True)
    both = [logits.sort(dim=1).values, torch.where(kept, logits, said.logits.float().cpu())]
    return Answers(torch.cat(both, dim=1), answers.features)


def joined(answers: Answers) -> Tensor:
    """All numbers of each image's answers, `(batch, numbers)`."""
    return torch.cat([said for said in answers if said is not None], dim=1)

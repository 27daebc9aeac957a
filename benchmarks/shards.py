"""How fast a teacher answers to pictures in tar files, and what a shard's size costs.

Claim: a stream of tar files is answered no slower than by a plain loop over the same files, and
shards of 4,096 answers cost no more than larger ones.
Conditions: `--images` pictures of `--data` in tar files of `--per-tar`, in the system's file cache;
a teacher with random weights, which takes as long as any; one view per picture. The plain loop
reads each tar from its first byte to its last, decodes and scales with Pillow by the same rule,
makes the same views and asks the same teacher, batch by batch, in one thread beside torch's own.
Answers of all agree to the last bit. `decode` asks nobody, `answer` decodes nothing. Rounds are
interleaved; `images_per_s` are of the median round.
Command: `python -m distill.benchmarks.shards --data DIR [--teacher torchvision/resnet18]`
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill.buckets import Folder
from distill.config import DataConfig, ModelConfig, ViewsConfig
from distill.data.decode import read_image, resize_image
from distill.data.digest import image_sha256
from distill.data.prepare import input_spec, stored_spec
from distill.data.sources import open_source, open_unlabelled
from distill.data.store.stream import stream_split
from distill.data.views.images import TrainingImages
from distill.models.classifier import Classifier, build_classifier
from distill.teaching.answers import Teacher
from distill.teaching.cache import Shard, TeacherCache
from distill.teaching.cache_build import batch_size, build_shard, claimed
from distill.teaching.cache_identity import open_cache
from distill.teaching.claims import Claims

CPU = torch.device("cpu")
CLASSES = tuple(f"class {number}" for number in range(1000))
SIZES = (64, 256, 1024, 4096, 16384)


@dataclass(frozen=True)
class Subject:
    """Pictures in tar files, and who is asked about them."""

    tars: list[Path]
    images: TrainingImages
    classifier: Classifier
    folder: Path

    def cache(self, name: str) -> TeacherCache:
        """An empty place for answers."""
        return open_cache(self.classifier, "teacher", self.images, self.folder / name, 0)


def packed(data: str, count: int, per_tar: int, folder: Path) -> list[Path]:
    """Tar files of so many pictures of a source, over again where it has fewer."""
    source, tars = open_source(data), list[Path]()
    for first in range(0, count, per_tar):
        tars.append(folder / f"{first // per_tar:05d}.tar")
        with tarfile.open(tars[-1], "w") as tar:
            for number in range(first, min(first + per_tar, count)):
                content = source.read(source.items[number % len(source.items)])
                assert isinstance(content, bytes), "pictures that are files"
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return tars


def make_subject(options: argparse.Namespace, folder: Path) -> Subject:
    """The pictures as a stream, and a teacher."""
    tars = packed(options.data, options.images, options.per_tar, folder)
    source, config, views = (
        open_unlabelled(str(folder)),
        DataConfig(size=options.size),
        ViewsConfig(),
    )
    digests = [image_sha256(source.read(item)) for item in source.items]
    spec = stored_spec(config, views)
    split = stream_split("unlabelled", source, source.items, digests, spec, options.workers)
    torch.manual_seed(0)
    model = ModelConfig(name=options.teacher)
    classifier = build_classifier(model, CLASSES, input_spec(config), False, "single").eval()
    images = TrainingImages((split,), CLASSES, views, 0, options.size)
    return Subject(tars, images, classifier, folder)


def by_plain_loop(subject: Subject, cache: TeacherCache) -> NDArray[Any]:
    """Opens tar after tar, and asks the teacher whenever there is a batch."""
    teacher, spec = Teacher(subject.classifier, CPU), _spec(subject)
    rows, waiting = [], list[NDArray[np.uint8]]()
    for first, pixels in _batches(_decoded(subject.tars, spec), waiting):
        ids = np.arange(first, first + len(pixels))
        rows.append(cache.pack(teacher(subject.images.augment(pixels, ids, 0, CPU))))
    return np.concatenate(rows)


def _spec(subject: Subject) -> Any:
    return subject.images.splits[0].stored.spec  # type: ignore[union-attr]


def _decoded(tars: list[Path], spec: Any) -> Iterator[NDArray[np.uint8]]:
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                yield resize_image(read_image(file.read()), spec)


def _batches(
    pictures: Iterator[NDArray[np.uint8]], waiting: list[NDArray[np.uint8]]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    first = 0
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == batch_size(CPU):
            yield first, np.stack(waiting)
            first += len(waiting)
            waiting.clear()
    if waiting:
        yield first, np.stack(waiting)


def by_shards(subject: Subject, cache: TeacherCache, rows: int) -> NDArray[Any]:
    """Claims, answers and publishes shards of so many rows, as `distill cache build --claim`."""
    count, teacher = len(subject.images), Teacher(subject.classifier, CPU)
    todo = [Shard(0, first, min(first + rows, count)) for first in range(0, count, rows)]
    for shard in claimed(cache, todo, Claims(Folder(cache.folder / "claims"))):
        build_shard(cache, shard, teacher, subject.images, CPU)
    found = [cache.open_shard(shard) for shard in todo]
    return np.concatenate([part for part in found if part is not None])


def by_decoding(subject: Subject) -> None:
    """Decodes everything, and asks nobody."""
    for first in range(0, len(subject.images), batch_size(CPU)):
        stop = min(first + batch_size(CPU), len(subject.images))
        subject.images.pixels(np.arange(first, stop))


def by_answering(subject: Subject) -> None:
    """Asks about as many pictures, of which the same few are decoded."""
    teacher, count, size = Teacher(subject.classifier, CPU), len(subject.images), batch_size(CPU)
    ids = np.arange(min(size, count))
    pixels = subject.images.pixels(ids)
    for _ in range(count // len(ids)):
        teacher(subject.images.augment(pixels, ids, 0, CPU))


def measure(subject: Subject, rounds: int) -> list[dict[str, Any]]:
    """A row for each way."""
    answers: list[NDArray[Any]] = []
    ways: dict[str, Callable[[TeacherCache], Any]] = {
        "plain loop": lambda cache: answers.append(by_plain_loop(subject, cache)),
        "decode": lambda cache: by_decoding(subject),
        "answer": lambda cache: by_answering(subject),
    }
    for size in (size for size in SIZES if size < 2 * len(subject.images)):
        ways[f"shards of {size}"] = lambda cache, size=size: answers.append(  # type: ignore[misc]
            by_shards(subject, cache, size)
        )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            cache = subject.cache(f"{number} {name}")
            start = time.perf_counter()
            way(cache)
            seconds[name].append(time.perf_counter() - start)
    assert all((other == answers[0]).all() for other in answers), "answers differ"
    count = len(subject.images)
    return [
        {"what": name, "images_per_s": round(count / statistics.median(spent), 1), "seconds": spent}
        for name, spent in seconds.items()
    ]


def main(arguments: list[str]) -> None:
    """Prints one JSON document: rows and environment."""
    from distill.environment import environment

    parser = argparse.ArgumentParser(prog="python -m distill.benchmarks.shards")
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", default="torchvision/resnet18")
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--per-tar", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(make_subject(options, Path(scratch)), options.rounds)
    print(json.dumps({"options": vars(options), "rows": rows, "env": environment()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])

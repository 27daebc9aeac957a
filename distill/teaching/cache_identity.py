"""What a teacher's cache depends on: weights, answers, images, views, and versions of the code."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data.views.images import TrainingImages
from distill.errors import UserError
from distill.files import differing_keys, read_json
from distill.mirror import bucket_of
from distill.models.classifier import Classifier
from distill.models.pooling import feature_width
from distill.teaching.cache import FORMAT, SHARD_ROWS, CacheFile, TeacherCache

PROBES = 4  # images that a teacher is asked about to know it by
DIRECTIONS = 4  # of its answers, each a number in the cache's name
GRAIN = 0.01  # in standard deviations of its answers; kernels differ by a millionth (LOG)


def open_cache(
    teacher: Classifier,
    name: str,
    images: TrainingImages,
    folder: Path,
    top_k: int,
    with_features: bool = False,
) -> TeacherCache:
    """The cache of a teacher on these views, whether or not anything is in it.

    Args:
        name: What the teacher is called in messages; the cache does not depend on it.
        folder: Folder of all caches.

    Raises:
        UserError: `top_k` is not below the number of classes, or the teacher's labels are
            independent of each other; or the folder of this hash holds something else.
    """
    num_classes = len(teacher.contract.names)
    check_top_k(top_k, teacher.contract.task)
    if top_k >= num_classes:
        what = f"got {top_k}, the teacher {name} has {num_classes} classes"
        raise UserError(what, "cache.top_k", "use fewer, or 0 for all")
    identity: dict[str, Any] = {
        "format": FORMAT,
        "shard_rows": SHARD_ROWS,
        "top_k": top_k,
        "teacher": {
            "weights_sha256": weights_sha256(teacher),
            "answers": answers(teacher, images),
            "input_size": teacher.contract.input_size,
            "mean": list(teacher.contract.mean),
            "std": list(teacher.contract.std),
            "classes": list(teacher.contract.names),
        },
        **images.describe(),
    }
    features = feature_width(teacher) if with_features else 0
    if features:
        identity["features"] = features
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = folder / f"logits-{digest[:16]}"
    bucket = bucket_of(place)
    cache = TeacherCache(place, identity, name, len(images), num_classes, top_k, features, bucket)
    if (place / "cache.json").is_file():
        stored = read_json(place / "cache.json", CacheFile)
        if changed := differing_keys(stored["identity"], identity):
            what = f"the cache was changed by hand: {', '.join(changed)}"
            raise UserError(what, str(place), "remove this folder")
    return cache


def check_top_k(top_k: int, task: str) -> None:
    """Raises UserError where labels do not share out one probability, so that there is no rest."""
    if top_k and task == "multi":
        what = f"got {top_k}, with several labels per image every one has a probability of its own"
        raise UserError(what, "cache.top_k", "leave it at 0, which keeps all")


def weights_sha256(teacher: Classifier) -> str:
    """SHA-256 of the names, shapes and values of a network's weights and buffers."""
    digest = hashlib.sha256()
    for key, tensor in sorted(teacher.network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def answers(teacher: Classifier, images: TrainingImages) -> list[float]:
    """What a teacher says of a few fixed views, in short.

    Weights do not tell what is done with them: another forward pass, or other code of the views,
    gives other answers. They are asked for on the CPU and rounded coarsely, so that threads and
    machines agree on them but once in a thousand times, when a cache is made again.
    """
    model = copy.deepcopy(teacher).cpu().to(memory_format=torch.contiguous_format).eval()
    stored = images.splits[0].stored.shape[1:3]
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PROBES, 4, 4, 3), dtype=np.uint8)
    rows, columns = (np.arange(side) * 4 // side for side in stored)
    pixels = coarse[:, rows][:, :, columns]
    seen = images.probe(pixels)
    logits = model(seen).logits.double().numpy().ravel()
    if not np.isfinite(logits).all():
        return []  # building will say so
    spread = max(float(logits.std()), 1e-12)
    directions = rng.standard_normal((DIRECTIONS, logits.size)) / np.sqrt(logits.size)
    projections = directions @ ((logits - logits.mean()) / spread)
    summary = [float(logits.mean() / spread), float(np.log10(spread)), *projections.tolist()]
    return [round(round(value / GRAIN) * GRAIN, 4) + 0.0 for value in summary]

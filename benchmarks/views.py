"""Speed of training views: a batch at once here, image by image in torchvision.

Claim: at least 4 times the images per second of torchvision v2's per-image transforms.
Conditions: one process on the CPU; the same random crop, mirror image, rotation and colour jitter,
from stored uint8 images (here memory-mapped, in torchvision in memory and as its transforms want
them) to one float32 batch in [0, 1]; rounds are interleaved, the median of the rounds counts. A
machine that is busy with something else slows all of them: then only the ratios say something.
Command: `python -m distill.benchmarks.views`, one JSON row per engine and number of threads.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from distill.config import ViewsConfig
from distill.data.views.draws import Draws
from distill.data.views.pixels import make_views

SEED = 0
IMAGES = 512  # stored ones, from which each batch is another random choice
CPU = torch.device("cpu")
Engine = Callable[[np.ndarray[Any, Any]], Tensor]


def per_image(config: ViewsConfig, size: int) -> v2.Compose:
    """What `config` says, in torchvision's transforms."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=False
            ),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomRotation(config.rotate_degrees, interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def make_engines(stored: np.ndarray[Any, Any], size: int) -> dict[str, Engine]:
    """Each takes image numbers to a batch of views; `stored` is uint8 `(n, h, w, 3)`."""
    config = ViewsConfig()
    transform = per_image(config, size)
    tensors = [torch.tensor(image).permute(2, 0, 1).contiguous() for image in stored]
    pictures = [Image.fromarray(image) for image in stored]
    return {
        "distill": lambda ids: make_views(stored[ids], Draws(SEED, ids, 0), config, size, CPU),
        "torchvision-tensor": lambda ids: torch.stack([transform(tensors[i]) for i in ids]),
        "torchvision-pil": lambda ids: torch.stack([transform(pictures[i]) for i in ids]),
    }


def measure(
    engines: dict[str, Engine], batch_size: int, size: int, rounds: int
) -> list[dict[str, Any]]:
    """One batch of each engine per round, in turns; a row per engine."""
    random = np.random.default_rng(SEED)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        ids = random.permutation(IMAGES)[:batch_size]
        for name, engine in engines.items():
            start = perf_counter()
            engine(ids)
            if number > 0:  # the first round warms up
                seconds[name].append(perf_counter() - start)
    typical = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "engine": name,
            "images_per_s": round(batch_size / typical[name], 1),
            "batch_size": batch_size,
            "size": size,
            "threads": torch.get_num_threads(),
            "n": rounds,
            "distill_is_times_as_fast": round(typical[name] / typical["distill"], 2),
        }
        for name in engines
    ]


def main() -> None:
    """Prints the rows."""
    parser = argparse.ArgumentParser(description="Time training views.")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=128, help="of a view, in pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    side = round(options.size * (1.0 + ViewsConfig().margin))
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(SEED).integers(
            0, 256, (IMAGES, side, side, 3), dtype=np.uint8
        )
        np.save(Path(folder) / "stored.npy", pixels)
        engines = make_engines(np.load(Path(folder) / "stored.npy", mmap_mode="r"), options.size)
        for threads in options.threads:
            torch.set_num_threads(threads)
            for row in measure(engines, options.batch_size, options.size, options.rounds):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""Golden vectors: pictures, their resized pixels and probabilities, to check another runtime by.

The pictures are drawn from a seed, so that no photograph of a user's travels with a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data.decode import to_pixels
from distill.files import atomic
from distill.runtime.predict import Predictor

SIZES = ((97, 201), (300, 150), (64, 64), (211, 213))  # height, width: odd, wide, tall, small


def write_golden(model: Path, file: Path) -> None:
    """Writes `picture_0` .. `picture_3` uint8 `(h, w, 3)`, `image` `(4, H, W, 3)` and `prob`."""
    predictor = Predictor(model)
    pictures = [draw_picture(index, *size) for index, size in enumerate(SIZES)]
    image = np.stack([to_pixels(picture, predictor.spec) for picture in pictures])
    named: dict[str, Any] = {f"picture_{i}": picture for i, picture in enumerate(pictures)}
    with atomic(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, image=image, prob=predictor.probs(image), **named)


def draw_picture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Smooth waves with sharp edges: what resizing rules differ on."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    phase, pitch = random.uniform(0, 6, 3), random.uniform(4, 30, 3)
    waves = 127.5 + 127.5 * np.sin((x[..., None] + y[..., None] * 0.7) / pitch + phase)
    waves[height // 3 : height // 2, width // 4 : width // 2] = random.uniform(0, 255, 3)
    picture: NDArray[np.uint8] = waves.astype(np.uint8)
    return picture

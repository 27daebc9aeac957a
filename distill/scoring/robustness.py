"""What pictures go through before somebody classifies them, at stated strengths.

Of the kinds of Hendrycks and Dietterich, 2019, arXiv:1903.12261, those that cameras, messengers and
crops have; each is moderate: a person still sees what is in the picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Pixels = NDArray[np.uint8]
Generator = np.random.Generator

JPEG_QUALITY = 30
BLUR = 0.012  # standard deviation, of the side
NOISE = 16.0  # standard deviation, of 255
DARK, BRIGHT, FLAT = 0.5, 1.5, 0.5  # factors of brightness and contrast
SHIFT = 0.08  # of the side, towards a corner
CROP = 0.8  # of the side that is left


class Stress(NamedTuple):
    """A change of pictures.

    Attributes:
        change: Takes an RGB picture and a generator; gives one of the same size.
    """

    name: str
    strength: str
    change: Callable[[Image.Image, Generator], Image.Image]


def _jpeg(image: Image.Image, rng: Generator) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY)
    return Image.open(content).convert("RGB")


def _blurred(image: Image.Image, rng: Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR * max(image.size)))


def _noisy(image: Image.Image, rng: Generator) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    noise = rng.normal(0.0, NOISE, values.shape)
    return Image.fromarray((values + noise).clip(0, 255).round().astype(np.uint8))


def _brightness(factor: float) -> Callable[[Image.Image, Generator], Image.Image]:
    return lambda image, rng: ImageEnhance.Brightness(image).enhance(factor)


def _flat(image: Image.Image, rng: Generator) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(FLAT)


def _shifted(image: Image.Image, rng: Generator) -> Image.Image:
    across, down = (round(SHIFT * side) for side in image.size)
    padded = np.pad(np.asarray(image), ((down, 0), (across, 0), (0, 0)), mode="reflect")
    return Image.fromarray(padded[: image.height, : image.width])


def _cropped(image: Image.Image, rng: Generator) -> Image.Image:
    width, height = image.size
    left, top = width * (1 - CROP) / 2, height * (1 - CROP) / 2
    box = (left, top, width - left, height - top)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


STRESSES = (
    Stress("jpeg", f"quality {JPEG_QUALITY}", _jpeg),
    Stress("blur", f"{100 * BLUR:.1f} % of the side", _blurred),
    Stress("noise", f"{NOISE:.0f} of 255", _noisy),
    Stress("dark", f"times {DARK}", _brightness(DARK)),
    Stress("bright", f"times {BRIGHT}", _brightness(BRIGHT)),
    Stress("flat", f"contrast times {FLAT}", _flat),
    Stress("shift", f"{100 * SHIFT:.0f} % of the side", _shifted),
    Stress("crop", f"{100 * CROP:.0f} % of the side", _cropped),
)


def stressed(pixels: Pixels, stress: Stress, seed: int = 0) -> Pixels:
    """Pictures `(n, height, width, 3)` as a stress leaves them; noise is drawn from the seed."""
    rng = np.random.default_rng(seed)
    changed = [np.asarray(stress.change(Image.fromarray(one), rng)) for one in pixels]
    return np.stack(changed)

"""Boxes and labels on a frame, of a size that suits it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from distill.runtime.faces import load_opencv
from distill.runtime.predict import Prediction
from distill.runtime.video.watch import Seen

Colour = tuple[int, int, int]

# Okabe and Ito's, which most people who confuse colours tell apart; RGB.
COLOURS: tuple[Colour, ...] = (
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)),
    *((86, 180, 233), (213, 94, 0), (240, 228, 66)),
)
UNSURE: Colour = (128, 128, 128)
MOST_LABELS = 3  # of several, that fit on a box


def draw(seen: Seen, names: tuple[str, ...], note: str = "") -> NDArray[np.uint8]:
    """The frame with what was seen in it, uint8 RGB `(height, width, 3)`.

    Args:
        names: The model's classes, each of which has a colour.
        note: What the lower left corner says.
    """
    canvas = seen.frame.pixels.copy()
    side = min(canvas.shape[:2])
    thickness, size = max(1, round(side / 200)), max(11, round(side / 30))
    for person in seen.people or ():
        x, y, width, height = person.face.box
        colour = _colour(person.face.prediction, names)
        corners = (x, y), (x + width - 1, y + height - 1)
        load_opencv().rectangle(canvas, *corners, colour, thickness)
        text = f"{person.number}  {caption(person.face.prediction)}"
        _write(canvas, text, (x - thickness // 2, y), colour, size)
    if seen.whole:
        _write(canvas, caption(seen.whole), (0, 0), _colour(seen.whole, names), size)
    if note:
        _write(canvas, note, (0, canvas.shape[0]), UNSURE, size)
    return canvas


def caption(prediction: Prediction) -> str:
    """An answer in the few words that fit on a box."""
    if prediction.abstained:
        return "not sure"
    labels = [f"{name} {prediction.probs[name]:.0%}" for name in prediction.labels[:MOST_LABELS]]
    return ", ".join(labels) + (", …" if len(prediction.labels) > MOST_LABELS else "")


def _colour(prediction: Prediction, names: tuple[str, ...]) -> Colour:
    if prediction.abstained:
        return UNSURE
    return COLOURS[names.index(prediction.labels[0]) % len(COLOURS)]


def _write(
    canvas: NDArray[np.uint8], text: str, place: tuple[int, int], colour: Colour, size: int
) -> None:
    """Writes on a ground of that colour above a place; below, where above is no room."""
    sign = _sign(text, colour, size)[: canvas.shape[0], : canvas.shape[1]]
    height, width = sign.shape[:2]
    left = min(max(0, place[0]), canvas.shape[1] - width)
    top = place[1] - height if place[1] >= height else min(place[1], canvas.shape[0] - height)
    canvas[top : top + height, left : left + width] = sign


@lru_cache(maxsize=256)
def _sign(text: str, colour: Colour, size: int) -> NDArray[np.uint8]:
    """Text on a ground of a colour, black or white, whichever is read better."""
    font = _font(size)
    left, _, right, bottom = font.getbbox(text)
    above, below = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (bottom, 0)
    edge = max(2, size // 4)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    image = Image.new("RGB", (round(right - left) + 2 * edge, round(above + below) + edge), colour)
    ink = "black" if luminance > 140 else "white"
    ImageDraw.Draw(image).text((edge - left, edge // 2), text, ink, font)
    return np.asarray(image)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

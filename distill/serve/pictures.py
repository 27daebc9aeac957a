"""An uploaded picture as a model's pixels: whole, or each face in it; runs in decoding threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.decode import (
    InputSpec,
    UnreadableImageError,
    open_image,
    read_image,
    resize_image,
)
from distill.data.draft import read_draft
from distill.serve.body import Upload
from distill.serve.problems import Problem, busy

Box = Sequence[int]  # x, y, width and height in pixels of the upright picture
FacesIn = Callable[[Image.Image], list[tuple[Box, Image.Image]]]  # each box, and what to look at


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        size: Width and height of the upright picture.
        pixels: `(1, height, width, 3)`, or one for each face.
        boxes: x, y, width and height of each face; None where the whole picture is asked about.
    """

    size: tuple[int, int]
    pixels: NDArray[np.uint8]
    boxes: list[list[int]] | None = None


def decode(
    upload: Upload,
    index: int,
    spec: InputSpec,
    draft: int,
    max_pixels: int,
    faces_in: FacesIn | None,
) -> Picture:
    """Decodes a picture of a request.

    Args:
        index: Its place in the request, for the problem that is told of it.
        draft: A JPEG is decoded to this many times the model's size; 0 decodes all of it.
        faces_in: Finds faces, in all pixels, which are asked about instead of the whole.

    Raises:
        Problem: It is empty, no picture, cut short, or too large.
    """
    which: dict[str, Any] = {"image": {"index": index, "path": upload.name}}
    if not upload.content:
        raise Problem("unreadable-image", f"image {index} is empty", **which)
    try:
        image = open_image(upload.content)
        if image.width * image.height > max_pixels:
            detail = f"image {index} is {image.width} x {image.height}, {max_pixels:,} are allowed"
            raise Problem("too-many-pixels", detail, **which)
        if faces_in is None:
            drafted = read_draft(image, spec, draft)
            return Picture(drafted.size, drafted.pixels(spec)[None])
        return _faces(read_image(image), spec, faces_in)
    except UnreadableImageError as error:
        raise Problem("unreadable-image", f"image {index}: {error}", **which) from None
    except MemoryError:
        raise busy("out of memory") from None


def _faces(image: Image.Image, spec: InputSpec, faces_in: FacesIn) -> Picture:
    found = faces_in(image)
    pixels = np.empty((len(found), spec.height, spec.width, 3), np.uint8)
    for row, (_, face) in zip(pixels, found, strict=True):
        row[:] = resize_image(face, spec)
    return Picture(image.size, pixels, [list(box) for box, _ in found])

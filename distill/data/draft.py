"""JPEGs decoded scaled down, by their DCT: a third of the work, and nearly the same pixels.

For the service alone. Training and evaluation see `decode.to_pixels`, which decodes all of a
picture; how far the two are apart on photographs is in benchmarks/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from distill.data.decode import (
    Box,
    InputSpec,
    Pixels,
    UnreadableImageError,
    read_image,
    resize_image,
)

FORMATS = ("JPEG", "MPO")
SCALES = (1, 2, 4, 8)
ORIENTATION = 0x0112  # of EXIF; of its eight values:
SIDEWAYS, MIRRORED_X, MIRRORED_Y = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


@dataclass(frozen=True)
class Draft:
    """A picture, upright and RGB, maybe scaled down.

    Attributes:
        size: Width and height of all of it.
        box: Where in `image` it lies: a scaled JPEG ends within its last pixels.
    """

    image: Image.Image
    size: tuple[int, int]
    box: Box

    def pixels(self, spec: InputSpec) -> Pixels:
        """A model's input, uint8 `(height, width, 3)`."""
        return resize_image(self.image, spec, self.size, self.box)


def read_draft(image: Image.Image, spec: InputSpec, times: int) -> Draft:
    """Decodes an open picture; a JPEG no larger than a model needs it.

    Args:
        image: Of which nothing is decoded yet; its size changes.
        times: Pixels a side that each pixel of the input is made of at least; 0 decodes all.

    Raises:
        UnreadableImageError: It is cut short.
    """
    if image.format not in FORMATS or not times:
        picture = read_image(image)
        return Draft(picture, picture.size, (0, 0, *picture.size))
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # a damaged block raises nearly anything
        raise UnreadableImageError(f"its EXIF block is none: {type(error).__name__}") from None
    sideways, stored = orientation in SIDEWAYS, image.size
    least = _least(spec, times)
    image.draft(None, least[::-1] if sideways else least)
    scale = next(s for s in SCALES if (-(-stored[0] // s), -(-stored[1] // s)) == image.size)
    picture = read_image(image)
    width, height = size = stored[::-1] if sideways else stored
    right, bottom = width / scale, height / scale
    left = picture.width - right if orientation in MIRRORED_X else 0.0
    top = picture.height - bottom if orientation in MIRRORED_Y else 0.0
    return Draft(picture, size, (left, top, left + right, top + bottom))


def _least(spec: InputSpec, times: int) -> tuple[int, int]:
    """Width and height of a draft, upright, at least."""
    if spec.resize == "squash":
        return times * spec.width, times * spec.height
    side = times * max(round(spec.height / spec.crop_pct), spec.width)
    return side, side

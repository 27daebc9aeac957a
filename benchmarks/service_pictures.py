"""The pictures that services are asked about: photographs of a stated number of bytes.

Pictures at hand are laid side by side at their own scale, so that there is as much to decode as in
a photograph; the JPEG quality is what brings the wanted size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.decode import read_image
from distill.errors import UserError
from distill.runtime.predict import find_images

QUALITIES = range(10, 96)
TILES = 96  # pictures that are looked at, at most
BOUNDARY = b"distill-bench"


@dataclass(frozen=True)
class Size:
    """A kind of picture: how many bytes it is to have, and how many pixels."""

    name: str
    num_bytes: int
    width: int
    height: int


SIZES = (Size("393 kB", 393_000, 1600, 1200), Size("10 kB", 10_000, 256, 192))


def tiles_of(folder: Path | None) -> list[Image.Image]:
    """Pictures to make others of: the first of a folder, or painted faces.

    Raises:
        UserError: There is no picture in the folder.
    """
    if folder is None:
        from distill.data.demo import paint

        return [Image.fromarray(paint(index)[0]) for index in range(TILES)]
    files = find_images([folder])
    chosen = files[:: max(1, len(files) // TILES)][:TILES]  # from all classes
    if not chosen:
        raise UserError("no pictures", str(folder), "name a folder of photographs")
    return [read_image(file) for file in chosen]


def lay_out(tiles: Sequence[Image.Image], width: int, height: int) -> Image.Image:
    """One picture of many, row by row, cut off at the edges."""
    picture, source = Image.new("RGB", (width, height)), cycle(tiles)
    top = 0
    while top < height:
        left, row = 0, 0
        while left < width:
            tile = next(source)
            picture.paste(tile, (left, top))
            left, row = left + tile.width, max(row, tile.height)
        top += row
    return picture


def encode(picture: Image.Image, num_bytes: int) -> tuple[bytes, int]:
    """A JPEG of about so many bytes, and the quality that brought them; at most 95, at least 10.

    Where even 95 is too small, faint noise by a seed is laid over the picture.
    """

    def jpeg(quality: int) -> bytes:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return file.getvalue()

    if len(jpeg(QUALITIES[-1])) < num_bytes:
        noise = np.random.default_rng(0).integers(-24, 25, (picture.height, picture.width, 1))
        noisy = np.clip(np.asarray(picture).astype(np.int16) + noise, 0, 255)
        picture = Image.fromarray(noisy.astype(np.uint8))
    low, high = 0, len(QUALITIES) - 1
    while low < high:  # the highest quality that does not exceed the size
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if len(jpeg(QUALITIES[middle])) <= num_bytes else (low, middle - 1)
        )
    return jpeg(QUALITIES[low]), QUALITIES[low]


def make_pictures(folder: Path | None, size: Size, count: int) -> list[tuple[bytes, int]]:
    """Several pictures of one kind, each with its JPEG quality; always the same ones."""
    tiles = tiles_of(folder)
    step = max(1, len(tiles) // count)
    turned = [tiles[i * step :] + tiles[: i * step] for i in range(count)]
    return [encode(lay_out(t, size.width, size.height), size.num_bytes) for t in turned]


def request_of(picture: bytes, path: str, field: str | None) -> bytes:
    """An HTTP request with a picture in it: in a form's field, or as it is where that is None."""
    kind = b"image/jpeg"
    if field is not None:
        head = (
            b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="photo.jpg"\r\n'
            b"Content-Type: image/jpeg\r\n\r\n" % (BOUNDARY, field.encode())
        )
        picture = head + picture + b"\r\n--%b--\r\n" % BOUNDARY
        kind = b"multipart/form-data; boundary=" + BOUNDARY
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        % (path.encode(), kind, len(picture))
    ) + picture

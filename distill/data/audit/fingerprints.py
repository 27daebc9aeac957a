"""What is known of every image after one look: hashes, a tiny picture, size, light and sharpness.

Files are read once and images dropped at once, so memory is a kilobyte per image. What follows
from it, copies and oddities, is decided in `duplicates.py` and `findings.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache as remember
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.decode import UnreadableImageError, open_image, read_image
from distill.data.digest import image_sha256
from distill.data.sources import Item, Source
from distill.files import atomic

FORMAT = 3  # of the cache; prints of another format are taken again
CHUNK = 256
DRAFT = 256  # a large JPEG is decoded to no less than this on its shorter side, which is faster
THUMB = 16  # side of the tiny picture
HASHED, KEPT = 32, 8  # side of the picture that is transformed, and of the frequencies kept of it
LOOK = 128  # longest side of the picture that light and sharpness are measured on
LIGHT = 95  # percentile of the grey values that counts as brightness
BLANK = 2.0  # standard deviation of the grey values below which there is nothing to see
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF tag, and where it swaps width and height

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """What is known of `n` images, in the order of `names`; zeros where one is unreadable.

    Attributes:
        sha256: Of the file's bytes, or of the pixels where there is no file; in hex, empty where
            nothing could be read.
        hashes: uint64 `(n, 2)`: perceptual hash (pHash) of the image and of its mirror image.
        thumbs: uint8 `(n, 16, 16, 3)`, the whole image squashed.
        width: Pixels of the upright image, int32 `(n,)`.
        height: As `width`.
        brightness: 95th percentile of the grey values, in [0, 255], `(n,)`.
        sharpness: Standard deviation of the Laplacian over that of the grey values, of the image
            reduced to at most 128 px; 0 where it is blank, `(n,)`.
        readable: bool `(n,)`.
        unreadable: Why not, by name.
    """

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    hashes: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    brightness: Floats
    sharpness: Floats
    readable: NDArray[np.bool_]
    unreadable: dict[str, str]


class _Print(NamedTuple):
    """The same of one image; the reason is empty unless it is unreadable."""

    sha256: str
    hashes: tuple[int, int] = (0, 0)
    thumb: NDArray[np.uint8] = np.zeros((THUMB, THUMB, 3), np.uint8)
    width: int = 0
    height: int = 0
    brightness: float = 0.0
    sharpness: float = 0.0
    reason: str = ""


def take_fingerprints(
    source: Source,
    items: Sequence[Item],
    cache: Path | None,
    workers: int,
    advance: Callable[[int], None],
) -> Fingerprints:
    """Looks at every image once, or remembers having done so.

    Args:
        cache: Folder where fingerprints are kept; None keeps none.
        workers: Decoding threads (Pillow releases the GIL).
        advance: Told how many more images are done.

    Raises:
        RunStopped: The disk has no room for them.
    """
    place = cache / f"prints-{_key(source, items)}.npz" if cache else None
    prints = _load(place) if place else None
    if prints is not None:
        return prints
    rows: list[_Print] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            rows += pool.map(lambda item: _look(source, item), chunk)
            advance(len(chunk))
    prints = _gather([item.name for item in items], rows)
    if place:
        _save(place, prints)
    return prints


def joined(one: Fingerprints, other: Fingerprints) -> Fingerprints:
    """Both, one behind the other; names of the second begin with a byte that no name has."""
    columns: dict[str, Any] = {}
    for field in fields(Fingerprints):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if field.name == "names":
            columns[field.name] = (*first, *(f"\0{name}" for name in second))
        elif field.name == "unreadable":
            columns[field.name] = {**first, **{f"\0{name}": why for name, why in second.items()}}
        else:
            is_array = isinstance(first, np.ndarray)
            columns[field.name] = np.concatenate([first, second]) if is_array else (*first, *second)
    return Fingerprints(**columns)


def perceptual_hash(grey: Image.Image) -> tuple[int, int]:
    """pHash of a grey picture and of its mirror image, 64 bits each.

    A bit says whether one of the 64 lowest frequencies of the picture at 32 x 32 px is above their
    median (Zauner, 2010, "Implementation and benchmarking of perceptual image hash functions"; bit
    for bit as `imagehash.phash` has it). Mirrored, odd horizontal frequencies change their sign.
    """
    small = grey.resize((HASHED, HASHED), Image.Resampling.LANCZOS)
    cosines = _cosines()
    low = cosines @ np.asarray(small, dtype=np.float64) @ cosines.T
    mirrored = low * np.where(np.arange(KEPT) % 2, -1.0, 1.0)
    return _bits(low > np.median(low)), _bits(mirrored > np.median(mirrored))


@remember
def _cosines() -> NDArray[np.float64]:
    """The lowest rows of the discrete cosine transform (type 2), not normalised."""
    angles = np.pi / (2 * HASHED) * np.arange(KEPT)[:, None] * (2 * np.arange(HASHED) + 1)
    cosines: NDArray[np.float64] = 2.0 * np.cos(angles)
    return cosines


def _bits(flags: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(flags).tobytes(), "big")


def _look(source: Source, item: Item) -> _Print:
    digest = ""
    try:
        raw = source.read(item)
        digest = image_sha256(raw)
        image, (width, height) = _read_reduced(raw)
    except UnreadableImageError as error:
        return _Print(digest, reason=str(error))
    grey = image.convert("L")
    thumb = np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX))
    brightness, sharpness = _light_and_sharpness(grey)
    return _Print(digest, perceptual_hash(grey), thumb, width, height, brightness, sharpness)


def _read_reduced(raw: bytes | Image.Image) -> tuple[Image.Image, tuple[int, int]]:
    """An upright RGB picture, smaller than the file's where that saves time, and the file's size.

    Raises:
        UnreadableImageError: As `read_image` does.
    """
    image = open_image(raw)
    width, height = image.size
    with contextlib.suppress(Exception):  # of what is wrong with it, `read_image` tells
        if image.getexif().get(ORIENTATION) in TURNED:
            width, height = height, width
    image.draft(None, (DRAFT, DRAFT))
    return read_image(image), (width, height)


def _light_and_sharpness(grey: Image.Image) -> tuple[float, float]:
    small = grey.copy()
    small.thumbnail((LOOK, LOOK), Image.Resampling.BOX)
    x = np.asarray(small, dtype=np.float32)
    brightness, contrast = float(np.percentile(x, LIGHT)), float(x.std())
    if contrast < BLANK or min(x.shape) < 3:
        return brightness, 0.0
    around = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    return brightness, float((4 * x[1:-1, 1:-1] - around).std()) / contrast


def _gather(names: Sequence[str], rows: Sequence[_Print]) -> Fingerprints:
    count = len(rows)
    return Fingerprints(
        names=tuple(names),
        sha256=tuple(row.sha256 for row in rows),
        hashes=np.array([row.hashes for row in rows], np.uint64).reshape(count, 2),
        thumbs=np.array([row.thumb for row in rows], np.uint8).reshape(count, THUMB, THUMB, 3),
        width=np.array([row.width for row in rows], np.int32),
        height=np.array([row.height for row in rows], np.int32),
        brightness=np.array([row.brightness for row in rows], np.float32),
        sharpness=np.array([row.sharpness for row in rows], np.float32),
        readable=np.array([not row.reason for row in rows], np.bool_),
        unreadable={n: row.reason for n, row in zip(names, rows, strict=True) if row.reason},
    )


def _key(source: Source, items: Sequence[Item]) -> str:
    described = [FORMAT, source.fingerprint, [item.name for item in items]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _save(place: Path, prints: Fingerprints) -> None:
    """Writes the arrays as they are, and what is text as JSON."""
    columns = {field.name: getattr(prints, field.name) for field in fields(prints)}
    arrays: dict[str, Any] = {n: c for n, c in columns.items() if isinstance(c, np.ndarray)}
    texts = json.dumps({name: column for name, column in columns.items() if name not in arrays})
    with atomic(place) as temporary, temporary.open("wb") as file:
        np.savez(file, texts=np.frombuffer(texts.encode(), np.uint8), **arrays)


def _load(place: Path) -> Fingerprints | None:
    """Fingerprints from a file; None if it is absent or damaged."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            columns: dict[str, Any] = {name: stored[name] for name in stored.files}
        columns |= json.loads(columns.pop("texts").tobytes())
        columns |= {name: tuple(columns[name]) for name in ("names", "sha256")}
        return Fingerprints(**columns)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
        return None

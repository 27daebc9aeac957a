"""From a file to RGB pixels of the model's size: the one definition of preprocessing.

Training, evaluation and the shipped runtime all come through here; numpy and Pillow only. What is
written down in a shipped file's `input_spec` is exactly what `resize_image` does.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache as remember
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from distill.config import MAX_SIZE, CropPct, Interpolation
from distill.errors import UserError, install_command
from distill.storage import is_remote, read_place

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_ENDINGS = "jpg jpeg jpe jfif png bmp gif webp tif tiff ppm pgm pbm pnm tga avif"
EXTENSIONS = frozenset(f".{ending}" for ending in _ENDINGS.split())
# Whatever a file is called: others start programs (EPS is Ghostscript's) or are no pictures.
FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP", "AVIF")
PLUGINS = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Ppm", "Tga", "Tiff", "WebP", "Avif")  # of Pillow
HEIF_EXTENSIONS = frozenset((".heic", ".heif"))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_BYTES = 2**30  # of a file: a third more than the largest picture has uncompressed
MAX_PIXELS = 178_956_970  # where Pillow, too, speaks of a decompression bomb
MAX_ASPECT = 1000  # of one side to the other: nothing is to be seen on a longer strip
ROWS = 64  # of a picture that are narrowed, or laid on white, at a time
STRIP = 16  # from this aspect on, only what is left after the crop is scaled
DECODING_VERSION = 2  # of what pixels come out; a change of it makes decoded stores and caches anew


class InputSpec(BaseModel):
    """How an image becomes a model's input; stored as `input_spec` in a shipped file.

    `shortest` scales the shorter side to `round(size / crop_pct)` and cuts the centre;
    `squash` scales both sides to the size, whatever the proportions.
    """

    model_config = ConfigDict(frozen=True)

    height: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    width: Annotated[int, Field(ge=1, le=MAX_SIZE)]
    resize: Literal["shortest", "squash"] = "shortest"
    crop_pct: CropPct = 1.0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    color: Literal["RGB"] = "RGB"


class UnreadableImageError(Exception):
    """A file that holds no picture Pillow can read whole.

    Attributes:
        hint: What to do about it on this machine, which strangers are not told; None for nothing.
    """

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


def image_endings() -> frozenset[str]:
    """What names of pictures end in; HEIC is among them where something decodes it."""
    return EXTENSIONS | HEIF_EXTENSIONS if find_spec("pi_heif") else EXTENSIONS


def heif_left_out(names: Iterable[str | Path], where: str) -> UserError | None:
    """What is wrong with files that were passed over, though they are pictures; None for nothing.

    Args:
        where: What they are in.
    """
    endings = Counter(PurePath(name).suffix.lower() for name in names)
    files = [f"{endings[end]:,} {end}" for end in sorted(HEIF_EXTENSIONS) if endings[end]]
    what = f"{' and '.join(files)} files are left out, nothing here decodes them"
    return UserError(what, where, install_command("heic")) if files else None


def warn_of_heif(names: Iterable[str | Path], where: str, say: Callable[[str], None]) -> None:
    """Says what is wrong with them, if anything is."""
    if problem := heif_left_out(names, where):
        say(f"warning: {problem}")


def read_file(path: Path) -> bytes:
    """The content of a picture's file, local or not.

    Raises:
        UnreadableImageError: A pipe, a device, a link that leads nowhere, or more than a gibibyte.
        OSError: It cannot be read now, which says nothing about what is in it.
    """
    if is_remote(path):
        return read_place(path)
    try:
        found = path.stat()
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise UnreadableImageError("a link that leads nowhere") from None
        raise
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImageError("no file: a folder, a pipe or a device")
    if found.st_size > MAX_BYTES:
        raise UnreadableImageError(f"{found.st_size:,} bytes, more than a picture has")
    return path.read_bytes()


def read_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Decodes a picture to upright RGB.

    EXIF orientation is applied; of an animation the first frame is taken; 16-bit grey is scaled to
    8, of floats 0 to 1, 0 to 255 or, beyond, all that there are; what is transparent lies on white.

    Raises:
        UnreadableImageError: As `open_image` does, or cut short.
        OSError: A file cannot be read now.
    """
    image = open_image(source)
    try:
        image.load()
        if image is source:
            image = image.copy()
        ImageOps.exif_transpose(image, in_place=True)  # which copies nothing that is upright
        return _to_rgb(image)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # Pillow's plug-ins raise nearly every built-in type on bad bytes
        raise _unreadable(error) from None


def open_image(source: str | Path | bytes | Image.Image) -> Image.Image:
    """Opens a picture, of which no more than the header is decoded yet.

    Raises:
        UnreadableImageError: No file, not an image of `FORMATS`, nor HEIC where that is decoded;
            of more than 179 million pixels, or one side more than 1,000 times the other.
        OSError: A file cannot be read now.
    """
    if isinstance(source, str | Path):
        try:
            source = read_file(Path(source))
        except FileNotFoundError:
            raise UnreadableImageError("no such file") from None
    try:
        image = source if isinstance(source, Image.Image) else _open(source)
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:  # as above
        raise _unreadable(error) from None
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"{image.width} x {image.height} pixels, too many")
    if max(image.size) > MAX_ASPECT * min(image.size):
        what = f"one side more than {MAX_ASPECT:,} times the other"
        raise UnreadableImageError(f"{image.width} x {image.height} pixels, {what}")
    return image


def _unreadable(error: Exception) -> UnreadableImageError:
    said = str(error).partition(" <_io.")[0]  # where it was in memory tells nobody anything
    return UnreadableImageError(f"{type(error).__name__}: {said}".removesuffix(": "))


def _open(content: bytes) -> Image.Image:
    """Opens a picture; what decodes HEIC is asked for when the first one is met."""
    if not content:
        raise UnreadableImageError("an empty file")
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        if not _is_heif(content):
            raise
    try:
        from pi_heif import register_heif_opener
    except ModuleNotFoundError:
        what = "HEIC, which nothing here decodes"
        raise UnreadableImageError(what, install_command("heic")) from None
    register_heif_opener()
    return Image.open(io.BytesIO(content), formats=["HEIF"])


@remember
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    for name in PLUGINS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{name}ImagePlugin")
    return [name for name in FORMATS if name in Image.OPEN]


def _is_heif(content: bytes) -> bool:
    """Whether a file says so of itself, whatever it is called: phones have .jpg that are HEIC."""
    return content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        return Image.fromarray(_narrowed(np.asarray(image), 0.0, 65535.0)).convert("RGB")
    if image.mode == "F":
        values = np.asarray(image)
        return Image.fromarray(_narrowed(values, *_range_of(values))).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        bottom = min(top + ROWS, image.height)
        rows = image.crop((0, top, image.width, bottom)).convert("RGBA")
        white = Image.new("RGBA", rows.size, "white")
        opaque.paste(Image.alpha_composite(white, rows).convert("RGB"), (0, top))
    return opaque


def _range_of(values: NDArray[np.float32]) -> tuple[float, float]:
    """What black and white are in floats: 0 and 1, 0 and 255, or the least and the most."""
    finite = values[np.isfinite(values)] if not np.isfinite(values).all() else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0.0 and high <= 255.0:
        return 0.0, 1.0 if high <= 1.0 else 255.0
    return low, high if high > low else low + 1.0


def _narrowed(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Grey values between `low` and `high` in 8 bits, a few rows at a time: wide ones are large.

    What is no number is black. 16 bits are divided by 257, rounding down.
    """
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS):
        rows = values[start : start + ROWS]
        if values.dtype.kind == "f":
            shares = (np.nan_to_num(rows, nan=low, posinf=low, neginf=low) - low) / (high - low)
            grey[start : start + ROWS] = (255.0 * shares).round()
        else:
            grey[start : start + ROWS] = rows.clip(int(low), int(high)) // 257
    return grey


def resize_image(
    image: Image.Image, spec: InputSpec, size: tuple[int, int] | None = None, box: Box | None = None
) -> Pixels:
    """An RGB picture by the rule of `spec`, uint8 `(height, width, 3)`.

    Of a strip, whose scaled picture would be many times the model's input, the crop alone is
    scaled: the same but for rounding, up to two levels with bilinear interpolation.

    Args:
        size, box: Where `image` is a picture that was decoded scaled down: width and height of all
            of it, and where in `image` it lies.
    """
    filter_ = Image.Resampling[spec.interpolation.upper()]
    whole, box = size or image.size, box or (0, 0, *image.size)
    if spec.resize == "squash":
        return np.asarray(image.resize((spec.width, spec.height), filter_, box))
    width, height = scaled_size(whole, spec)
    if max(width, height) > STRIP * round(spec.height / spec.crop_pct):
        across, down = (box[2] - box[0]) / whole[0], (box[3] - box[1]) / whole[1]
        left, top, right, bottom = seen_box(whole, spec)
        x, y = box[:2]
        part = (x + left * across, y + top * down, x + right * across, y + bottom * down)
        return np.asarray(image.resize((spec.width, spec.height), filter_, part))
    left, top = (width - spec.width) // 2, (height - spec.height) // 2
    cut = (left, top, left + spec.width, top + spec.height)
    return np.asarray(image.resize((width, height), filter_, box).crop(cut))


def scaled_size(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Width and height of a picture that `shortest` has scaled and not cut yet."""
    ratio = round(spec.height / spec.crop_pct) / min(size)
    return max(spec.width, round(size[0] * ratio)), max(spec.height, round(size[1] * ratio))


def seen_box(size: tuple[int, int], spec: InputSpec) -> Box:
    """Left, top, right and bottom of what a model sees of a picture, in pixels of the picture.

    Args:
        size: Its width and height, upright.
    """
    if spec.resize == "squash":
        return 0.0, 0.0, float(size[0]), float(size[1])
    width, height = scaled_size(size, spec)
    left, top = (width - spec.width) // 2, (height - spec.height) // 2
    across, down = size[0] / width, size[1] / height
    right, bottom = left + spec.width, top + spec.height
    return left * across, top * down, right * across, bottom * down


def to_image(source: Any) -> Image.Image:
    """A picture, upright and RGB, from whatever holds one.

    Args:
        source: A path, bytes, an open file, a PIL image, or a uint8 array `(h, w, 3)` or `(h, w)`.

    Raises:
        UnreadableImageError: It is none of these, or no picture.
        OSError: A file cannot be read now.
    """
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    elif hasattr(source, "read"):
        source = source.read()
        if isinstance(source, str):
            raise UnreadableImageError("a file that is open as text")
    if isinstance(source, np.ndarray):
        grey_or_rgb = source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3)
        if source.dtype != np.uint8 or not grey_or_rgb:
            got = f"{source.dtype} {source.shape}"
            raise UnreadableImageError(f"expected uint8 (h, w, 3) RGB or (h, w), got {got}")
        source = Image.fromarray(source)
    if not isinstance(source, str | Path | bytes | Image.Image):
        raise UnreadableImageError(f"a {type(source).__name__} is no picture")
    return read_image(source)


def to_pixels(source: Any, spec: InputSpec) -> Pixels:
    """A picture, as `to_image` takes it, as model input; raises as that does."""
    return resize_image(to_image(source), spec)

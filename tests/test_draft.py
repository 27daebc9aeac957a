"""JPEGs decoded scaled down: how small, which way up, and how near to what is decoded whole."""

import io

import numpy as np
import pytest
from PIL import Image

from distill.data.decode import InputSpec, UnreadableImageError, open_image, read_image, to_pixels
from distill.data.draft import Draft, read_draft

SQUARE = InputSpec(height=48, width=48, resize="squash")


def photograph(width: int, height: int, orientation: int = 1, kind: str = "JPEG") -> bytes:
    """A smooth picture with some noise, so that scaling it one way or another is much the same."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(40, 216, (6, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    pixels = (smooth + rng.normal(0, 5, (height, width, 1))).clip(0, 255).astype(np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def draft(content: bytes, spec: InputSpec = SQUARE, times: int = 2) -> Draft:
    return read_draft(open_image(content), spec, times)


@pytest.mark.parametrize(
    ("size", "orientation", "least", "drafted", "box"),
    [
        ((800, 600), 1, (100, 75), (100, 75), (0, 0, 100, 75)),
        ((800, 600), 1, (101, 75), (200, 150), (0, 0, 200, 150)),
        ((800, 600), 1, (100, 76), (200, 150), (0, 0, 200, 150)),
        ((801, 604), 1, (100, 75), (101, 76), (0, 0, 100.125, 75.5)),
        ((801, 604), 2, (100, 75), (101, 76), (0.875, 0, 101, 75.5)),
        ((801, 604), 3, (100, 75), (101, 76), (0.875, 0.5, 101, 76)),
        ((801, 604), 6, (75, 100), (76, 101), (0.5, 0, 76, 100.125)),
        ((801, 604), 8, (75, 100), (76, 101), (0, 0.875, 75.5, 101)),
        ((800, 600), 3, (401, 300), (800, 600), (0, 0, 800, 600)),
        ((40, 30), 1, (96, 96), (40, 30), (0, 0, 40, 30)),
    ],
)
def test_a_draft_is_no_smaller_than_what_is_needed(size, orientation, least, drafted, box) -> None:
    """The last of 801 pixels is one of its own in a draft at an eighth, and counts as an eighth."""
    content = photograph(*size, orientation)
    made = draft(content, InputSpec(width=least[0], height=least[1], resize="squash"), 1)
    assert (made.image.size, made.box) == (drafted, box)
    assert made.size == read_image(content).size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("spec", [SQUARE, InputSpec(height=48, width=48, crop_pct=0.875)])
def test_a_draft_looks_the_same_whichever_way_it_lies(spec, orientation) -> None:
    """At most 3 of 255 levels and 0.4 on average; without its box it was 8 and 2."""
    content = photograph(613, 999, orientation)
    made = draft(content, spec)
    assert max(made.image.size) == 250
    off = np.abs(made.pixels(spec).astype(int) - to_pixels(content, spec))
    assert off.max() <= 3
    assert off.mean() <= 0.4


def test_a_strip_is_drafted_too() -> None:
    spec = InputSpec(height=16, width=16)
    content = photograph(4000, 200)
    made = draft(content, spec, 1)
    assert made.image.size == (500, 25)
    assert np.abs(made.pixels(spec).astype(int) - to_pixels(content, spec)).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_only_jpegs_are_drafted(kind) -> None:
    made = draft(photograph(300, 200, 6, kind))
    assert made.image.size == made.size == (200, 300)


def test_without_a_draft_the_pixels_are_those_of_training() -> None:
    content = photograph(613, 999, 6)
    np.testing.assert_array_equal(
        draft(content, times=0).pixels(SQUARE), to_pixels(content, SQUARE)
    )


def test_what_is_cut_short_is_refused() -> None:
    content = photograph(800, 600)
    with pytest.raises(UnreadableImageError):
        draft(content[: len(content) // 2])

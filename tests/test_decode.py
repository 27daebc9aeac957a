"""Decoding and resizing: every kind of file, hand-checked sizes, parity with another scorer."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.decode import (
    InputSpec,
    UnreadableImageError,
    image_endings,
    read_image,
    resize_image,
    to_pixels,
)
from distill.errors import install_command

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def rows(image: Image.Image) -> list[list[int]]:
    """First channel of a picture whose three channels are equal."""
    array = np.asarray(image)
    assert image.mode == "RGB"
    assert (array == array[:, :, :1]).all()
    return array[:, :, 0].tolist()


def test_heic_is_a_picture_like_any_other(repository: Path) -> None:
    """Whatever it is called: the left half of this one is red, the right one blue."""
    pytest.importorskip("pi_heif")
    file = repository / "tests" / "fixtures" / "halves.heic"
    for source in (file, str(file), file.read_bytes()):
        image = read_image(source)
        assert (image.size, image.mode) == ((64, 48), "RGB")
        for place, colour in (((8, 8), (220, 30, 30)), ((56, 40), (30, 30, 220))):
            assert np.abs(np.subtract(image.getpixel(place), colour)).max() <= 8
    assert {".heic", ".heif", ".jpg"} <= image_endings()
    with pytest.raises(UnreadableImageError):
        read_image(file.read_bytes()[:-100])


@pytest.mark.usefixtures("no_heif")
def test_heic_names_its_remedy_where_nothing_decodes_it(repository: Path) -> None:
    file = repository / "tests" / "fixtures" / "halves.heic"
    for source in (file, file.read_bytes()):
        with pytest.raises(UnreadableImageError, match="HEIC, which nothing here") as caught:
            read_image(source)
        assert caught.value.hint == install_command("heic")
    assert ".heic" not in image_endings()
    with pytest.raises(UnreadableImageError, match="UnidentifiedImageError"):
        read_image(b"no picture at all")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        # Stored rows (10 20 30 / 40 50 60) as a viewer must show them.
        (1, [[10, 20, 30], [40, 50, 60]]),
        (2, [[30, 20, 10], [60, 50, 40]]),
        (3, [[60, 50, 40], [30, 20, 10]]),
        (4, [[40, 50, 60], [10, 20, 30]]),
        (5, [[10, 40], [20, 50], [30, 60]]),
        (6, [[40, 10], [50, 20], [60, 30]]),
        (7, [[60, 30], [50, 20], [40, 10]]),
        (8, [[30, 60], [20, 50], [10, 40]]),
    ],
)
def test_exif_orientation_is_applied(orientation: int, upright: list[list[int]]) -> None:
    stored = Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert rows(read_image(encode(stored, exif=exif))) == upright


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert np.asarray(read_image(encode(image))).tolist() == [[list(RED), list(BLUE)]]


def test_transparent_palette_is_read_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    decoded = read_image(encode(image, transparency=b"\x00\xff"))
    assert np.asarray(decoded).tolist() == [[[255, 255, 255], list(BLUE)]]
    assert not recwarn.list


def test_what_is_transparent_lies_on_white() -> None:
    """Black drawings on nothing were all black: their transparent pixels are black below."""
    pixels = {0: (255, 255, 255), 255: (10, 200, 30)}
    for alpha, expected in pixels.items():
        rgba = Image.new("RGBA", (1, 1), (10, 200, 30, alpha))
        assert read_image(encode(rgba)).getpixel((0, 0)) == expected
    half = read_image(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))).getpixel((0, 0))
    assert half == (127, 127, 127)
    grey_alpha = Image.new("LA", (1, 1), (77, 0))
    assert read_image(encode(grey_alpha)).getpixel((0, 0)) == (255, 255, 255)
    named = encode(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert read_image(named).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([0.0, 2000.0, 4000.0], [0, 128, 255]),
        ([float("nan"), 0.0, 1.0], [0, 0, 255]),
        ([0.25, 0.25, 0.25], [64, 64, 64]),
        ([300.0, 300.0, 300.0], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_by_their_range(values: list[float], greys: list[int]) -> None:
    """They turned black: 0 to 1 was cut off at 0 and 255."""
    image = Image.fromarray(np.array([values], np.float32))
    assert rows(read_image(encode(image, "TIFF"))) == [greys]


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red, green, blue = read_image(encode(cmyk, "TIFF")).getpixel((4, 4))
    assert (red, green, blue) == RED
    red, green, blue = read_image(encode(cmyk, "JPEG", quality=95)).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    # 65535 / 257 = 255; 32896 / 257 = 128; 256 / 257 < 1.
    wide = Image.fromarray(np.array([[0, 256, 257, 32896, 65535]], dtype=np.uint16))
    assert rows(read_image(encode(wide))) == [[0, 0, 1, 128, 255]]
    assert rows(read_image(encode(wide, "TIFF"))) == [[0, 0, 1, 128, 255]]


def test_one_bit_and_grey() -> None:
    bits = Image.fromarray(np.array([[False, True]]))
    assert bits.mode == "1"
    assert rows(read_image(encode(bits))) == [[0, 255]]
    grey = Image.fromarray(np.array([[3, 99]], dtype=np.uint8))
    assert rows(read_image(encode(grey))) == [[3, 99]]


def test_the_first_frame_of_an_animation() -> None:
    first, second = Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), GREEN)
    animated = encode(first, "GIF", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(animated)).n_frames == 2
    assert read_image(animated).getpixel((1, 1)) == RED


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_single_pixel_fills_the_input(resize: str) -> None:
    spec = InputSpec(height=5, width=5, resize=resize, crop_pct=0.8)
    pixels = to_pixels(encode(Image.new("RGB", (1, 1), (9, 8, 7))), spec)
    assert pixels.shape == (5, 5, 3)
    assert (pixels == (9, 8, 7)).all()


def test_a_truncated_jpeg_is_unreadable() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), "JPEG")
    assert read_image(whole).size == (64, 64)
    with pytest.raises(UnreadableImageError):
        read_image(whole[: len(whole) // 2])


@pytest.mark.parametrize("content", [b"", b"not a picture\n", b"\xff\xd8\xff", b"GIF89a"])
def test_other_files_named_jpg_are_unreadable(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(content)
    for source in (file, str(file), content):
        with pytest.raises(UnreadableImageError):
            read_image(source)


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(UnreadableImageError):
            read_image(path)


def test_a_decompression_bomb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("RGB", (20, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)  # Pillow raises above twice its limit
    with pytest.raises(UnreadableImageError, match="pixels"):
        read_image(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("distill.data.decode.MAX_PIXELS", 199)
    with pytest.raises(UnreadableImageError, match="20 x 10"):
        read_image(content)


def test_squash_ignores_the_proportions() -> None:
    # Left half black, right half white, 4 x 2 squashed to 2 x 2 by a box filter: halves stay.
    image = Image.fromarray(np.array([[0, 0, 255, 255]] * 2, dtype=np.uint8)).convert("RGB")
    spec = InputSpec(height=2, width=2, resize="squash", crop_pct=0.5, interpolation="box")
    assert resize_image(image, spec)[:, :, 0].tolist() == [[0, 255], [0, 255]]


def test_shortest_cuts_the_centre() -> None:
    # 6 x 2 to 2 x 2: the scale is 1, and columns (6 - 2) // 2 = 2 and 3 stay.
    image = Image.fromarray(np.array([[0, 10, 20, 30, 40, 50]] * 2, dtype=np.uint8)).convert("RGB")
    spec = InputSpec(height=2, width=2, resize="shortest")
    assert resize_image(image, spec)[:, :, 0].tolist() == [[20, 30], [20, 30]]
    tall = image.transpose(Image.Transpose.TRANSPOSE)
    assert resize_image(tall, spec)[:, :, 0].tolist() == [[20, 20], [30, 30]]


def test_crop_pct_leaves_a_margin_around_the_crop() -> None:
    # side = round(4 / 0.5) = 8, so an 8 x 8 picture keeps its scale; (8 - 4) // 2 = 2 is cut away
    # on each side.
    ramp = np.arange(8, dtype=np.uint8) * 10
    image = Image.fromarray(np.tile(ramp, (8, 1))).convert("RGB")
    spec = InputSpec(height=4, width=4, resize="shortest", crop_pct=0.5)
    assert resize_image(image, spec)[:, :, 0].tolist() == [[20, 30, 40, 50]] * 4


def test_an_odd_margin_is_cut_more_on_the_right() -> None:
    # 5 x 2 to 2 x 2: (5 - 2) // 2 = 1, so columns 1 and 2 stay.
    image = Image.fromarray(np.array([[0, 10, 20, 30, 40]] * 2, dtype=np.uint8)).convert("RGB")
    spec = InputSpec(height=2, width=2, resize="shortest")
    assert resize_image(image, spec)[0, :, 0].tolist() == [10, 20]


def oracle(image: Image.Image, spec: InputSpec) -> np.ndarray:
    """The rule of `shared/tools/score_onnx.py`, in other words: it shares no code with ours."""
    filter_ = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[spec.interpolation]
    if spec.resize == "squash":
        return np.array(image.resize((spec.width, spec.height), resample=filter_))
    scale = round(spec.height / spec.crop_pct) / min(image.width, image.height)
    sizes = [round(image.width * scale), round(image.height * scale)]
    sizes = [max(a, b) for a, b in zip(sizes, (spec.width, spec.height), strict=True)]
    array = np.array(image.resize(tuple(sizes), resample=filter_))
    top, left = (sizes[1] - spec.height) // 2, (sizes[0] - spec.width) // 2
    return array[top : top + spec.height, left : left + spec.width]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_parity_with_the_independent_scorer(resize: str, interpolation: str) -> None:
    rng = np.random.default_rng(1)
    odd = [(17, 31), (64, 9), (9, 64), (33, 32), (100, 7), (1, 3)]
    for size in [*odd, *rng.integers(5, 90, (20, 2))]:
        width, height = (int(x) for x in size)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        spec = InputSpec(
            height=24,
            width=24,
            resize=resize,
            crop_pct=float(rng.choice([1.0, 0.875, 0.9, 0.65])),
            interpolation=interpolation,
        )
        pixels = to_pixels(encode(image), spec)
        assert pixels.shape == (24, 24, 3), size
        assert np.array_equal(pixels, oracle(image, spec)), (size, spec)


def test_real_photographs_too(real_data: Path) -> None:
    files = sorted((real_data / "masks" / "val").rglob("*.jpg"))[::60]
    assert files
    for file in files:
        spec = InputSpec(height=48, width=48, resize="shortest", crop_pct=0.9)
        assert np.array_equal(to_pixels(file, spec), oracle(Image.open(file).convert("RGB"), spec))


def test_arrays_are_taken_as_they_are() -> None:
    spec = InputSpec(height=4, width=4, resize="squash")
    rgb = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(rgb, spec), rgb)
    grey = rgb[:, :, 0]
    assert np.array_equal(to_pixels(grey, spec), np.stack([grey] * 3, axis=2))
    assert np.array_equal(to_pixels(Image.fromarray(rgb), spec), rgb)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 3), dtype=np.int64),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 1), dtype=np.uint8),
        np.zeros((3, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused_with_what_was_got(array: np.ndarray) -> None:
    with pytest.raises(UnreadableImageError, match="expected uint8") as caught:
        to_pixels(array, InputSpec(height=4, width=4))
    assert str(array.shape) in str(caught.value)
    assert str(array.dtype) in str(caught.value)


def test_an_unknown_resize_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="resize"):
        InputSpec(height=4, width=4, resize="longest")


def test_a_strip_is_not_scaled_before_it_is_cropped(monkeypatch) -> None:
    """A picture of 1 x 1,000,000 pixels wanted 49 GB: its shorter side was scaled up first."""
    scaled = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda *a, **k: scaled.append(resize(*a, **k)) or scaled[-1]
    )
    spec = InputSpec(height=128, width=128, resize="shortest", crop_pct=0.9)
    for size in ((3, 2900), (2900, 3), (16, 300), (300, 16), (40, 600)):
        ramp = np.arange(max(size), dtype=np.float32) * 255 / max(size)
        strip = np.broadcast_to(ramp[None, :, None], (min(size), max(size), 3)).astype(np.uint8)
        pixels = to_pixels(strip if size[0] > size[1] else strip.swapaxes(0, 1), spec)
        assert pixels.shape == (128, 128, 3)
        assert np.abs(pixels.astype(int) - 127).max() <= 8  # the middle of the strip
    assert max(image.width * image.height for image in scaled) <= 16 * 143**2


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_a_thread_of_pixels_is_no_picture(resize: str) -> None:
    spec = InputSpec(height=8, width=8, resize=resize)
    for shape in ((1, 1_000_000, 3), (1_000_000, 1, 3), (2, 2001, 3)):
        with pytest.raises(UnreadableImageError, match="1,000 times the other"):
            to_pixels(np.zeros(shape, np.uint8), spec)
    assert to_pixels(np.zeros((2, 2000, 3), np.uint8), spec).shape == (8, 8, 3)

"""One look at every image: hashes, size, light, sharpness, and what cannot be read."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from distill.data import decode
from distill.data.audit import fingerprints
from distill.data.audit.fingerprints import Fingerprints, perceptual_hash, take_fingerprints
from distill.data.demo import paint
from distill.data.sources import Item, Source, open_source


@cache
def face(number: int) -> Image.Image:
    return Image.fromarray(paint(number)[0])


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def source_of(contents: Sequence[bytes | Image.Image], fingerprint: str = "a") -> Source:
    items = tuple(Item(str(number), 0) for number in range(len(contents)))
    return Source("memory", ("a", "b"), items, lambda i: contents[int(i.name)], fingerprint)


def look(contents: Sequence[bytes | Image.Image], workers: int = 1) -> Fingerprints:
    source = source_of(contents)
    return take_fingerprints(source, source.items, None, workers, lambda count: None)


def same(one: Fingerprints, other: Fingerprints) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def bits_apart(one: int, other: int) -> int:
    return (int(one) ^ int(other)).bit_count()


def never(item: Item) -> bytes:
    raise AssertionError(f"{item.name} was read")


def test_hashes_are_those_of_imagehash() -> None:
    imagehash = pytest.importorskip("imagehash")
    for image in map(face, range(12)):
        own, mirrored = perceptual_hash(image.convert("L"))
        assert f"{own:016x}" == str(imagehash.phash(image))
        # Rounding in the mirrored picture may move a value across the median: two bits then.
        theirs = int(str(imagehash.phash(ImageOps.mirror(image))), 16)
        assert bits_apart(mirrored, theirs) <= 2


def test_what_is_known_of_an_image() -> None:
    content, plain = encoded(face(3).resize((90, 60))), face(1)
    prints = look([content, plain])
    assert prints.names == ("0", "1")
    # A picture without a file is hashed by its pixels.
    expected = [hashlib.sha256(x).hexdigest() for x in (content, plain.tobytes())]
    assert list(prints.sha256) == expected
    assert (prints.width[0], prints.height[0]) == (90, 60)
    assert prints.thumbs.shape == (2, 16, 16, 3)
    assert np.abs(prints.thumbs[0].astype(int) - face(3).resize((16, 16))).mean() < 3
    assert prints.readable.tolist() == [True, True]
    assert prints.unreadable == {}


def test_a_turned_file_is_seen_upright() -> None:
    upright = face(5).resize((120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees
    turned = encoded(upright.rotate(90, expand=True), exif=exif.tobytes())
    prints = look([encoded(upright), turned])
    assert prints.width.tolist() == [120, 120]
    assert prints.height.tolist() == [80, 80]
    assert prints.hashes[0].tolist() == prints.hashes[1].tolist()
    assert np.array_equal(*prints.thumbs)


def test_a_large_jpeg_is_decoded_small_but_measured_whole() -> None:
    large = face(7).resize((1200, 800), Image.Resampling.BICUBIC)
    prints = look([encoded(large, "JPEG"), encoded(large)])
    assert prints.width.tolist() == [1200, 1200]
    assert prints.height.tolist() == [800, 800]
    assert bits_apart(*prints.hashes[:, 0]) <= 4
    assert np.abs(np.diff(prints.thumbs.astype(int), axis=0)).mean() < 2


def test_files_that_hold_no_picture() -> None:
    good = encoded(face(0), "JPEG")
    large = encoded(face(0).resize((1024, 1024)), "JPEG")
    prints = look([good, b"no picture", good[: len(good) // 2], b"", large[: len(large) // 2]])
    assert prints.readable.tolist() == [True, False, False, False, False]
    assert list(prints.unreadable) == ["1", "2", "3", "4"]
    assert all(prints.unreadable.values())
    assert prints.sha256[1] == hashlib.sha256(b"no picture").hexdigest()
    assert not prints.hashes[1:].any()


def test_a_file_that_vanished_is_no_unreadable_picture(tmp_path: Path) -> None:
    """What cannot be read at this moment is not remembered."""
    source = replace(source_of([b""]), read=lambda item: (tmp_path / item.name).read_bytes())
    with pytest.raises(FileNotFoundError):
        take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_training_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG that is decoded small must not slip below the limit that the whole one is above."""
    monkeypatch.setattr(decode, "MAX_PIXELS", 10**6)
    prints = look([encoded(face(0).resize((1200, 1000)), "JPEG"), encoded(face(0))])
    assert prints.readable.tolist() == [False, True]


def test_brightness_is_nearly_that_of_the_brightest_pixels() -> None:
    few, many = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    few.flat[:4] = 255  # 96 of 100 pixels are black: the 95th percentile is, too
    many.flat[:10] = 255
    prints = look([Image.fromarray(pixels).convert("RGB") for pixels in (few, many)])
    assert prints.brightness.tolist() == [0, 255]


def test_sharpness_by_hand() -> None:
    # A chessboard of 0 and 2a: the Laplacian is 4 * +-a - 4 * -+a = +-8a everywhere, so its
    # standard deviation is 8 times that of the pixels, whatever the contrast.
    board = np.indices((12, 12)).sum(axis=0) % 2
    pictures = [Image.fromarray((board * a).astype(np.uint8)).convert("RGB") for a in (40, 200)]
    assert look(pictures).sharpness == pytest.approx([8.0, 8.0], rel=1e-5)


def test_blurring_takes_sharpness_and_dimming_does_not() -> None:
    """Blank pictures, faint noise and those of two pixels are not sharp."""
    image = face(2)
    blurred = image.filter(ImageFilter.GaussianBlur(3))
    dimmed = image.point(lambda value: value // 2)
    blank = Image.new("RGB", (64, 64), "white")
    noise = np.random.default_rng(0).integers(100, 103, (64, 64, 3)).astype(np.uint8)
    others = [blank, Image.fromarray(noise), face(0).resize((2, 2))]
    sharp, soft, dark, *none = look([image, blurred, dimmed, *others]).sharpness.tolist()
    assert soft < 0.5 * sharp
    assert dark == pytest.approx(sharp, rel=0.1)
    assert none == [0, 0, 0]


def test_threads_change_nothing() -> None:
    contents = [encoded(face(number)) for number in range(12)] + [b"x"]
    assert same(look(contents, workers=1), look(contents, workers=4))


def test_progress_counts_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "CHUNK", 4)
    source, counts = source_of([encoded(face(0))] * 9 + [b"x"]), []
    take_fingerprints(source, source.items, None, 2, counts.append)
    assert counts == [4, 4, 2]
    assert look([]).hashes.shape == (0, 2)


def test_a_second_look_reads_no_file(tmp_path: Path) -> None:
    source = source_of([encoded(face(0)), b"x", encoded(face(1))])
    first = take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    blind = replace(source, read=never)
    assert same(first, take_fingerprints(blind, source.items, tmp_path, 1, lambda count: None))
    assert len(list(tmp_path.iterdir())) == 1


def test_other_images_are_looked_at_again(tmp_path: Path) -> None:
    source = source_of([encoded(face(0)), encoded(face(1))])
    take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    blind = replace(source, read=never)
    for other, items in (
        (replace(blind, fingerprint="b"), source.items),
        (blind, source.items[:1]),
    ):
        with pytest.raises(AssertionError):
            take_fingerprints(other, items, tmp_path, 1, lambda count: None)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, texts=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def test_a_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    source = source_of([encoded(face(number)) for number in range(3)])
    first = take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    (place,) = tmp_path.iterdir()
    blind, whole = replace(source, read=never), place.read_bytes()
    for damaged in (cut(whole), flip(whole), pickled(), b"", b"x"):
        place.write_bytes(damaged)
        for given in (source, blind):  # looked at again, then found
            found = take_fingerprints(given, source.items, tmp_path, 1, lambda count: None)
            assert same(first, found)


def test_an_interrupted_look_leaves_no_cache(tmp_path: Path) -> None:
    def read(item: Item) -> bytes:
        raise KeyboardInterrupt

    source = replace(source_of([b""]), read=read)
    with pytest.raises(KeyboardInterrupt):
        take_fingerprints(source, source.items, tmp_path, 1, lambda count: None)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_painted_faces(image_folder: Path) -> None:
    for source in (open_source(str(image_folder)), open_source("demo:30")):
        prints = take_fingerprints(source, source.items, None, 2, lambda count: None)
        assert prints.names == tuple(item.name for item in source.items)
        assert prints.readable.all()
        assert len(set(prints.sha256)) == len(source.items)

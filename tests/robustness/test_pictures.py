"""Pictures that something happened to: answered, or said to be none; never anything else."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill import Predictor
from distill.data.audit.fingerprints import take_fingerprints
from distill.data.decode import UnreadableImageError, read_file, read_image
from distill.data.sources import Item, Source

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA")


def encoded(format_: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format_)
    return content.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_mutated_pictures_are_pictures_or_none(format_, tiny_onnx, hostile):
    predictor, whole = Predictor(tiny_onnx), encoded(format_)
    for rng in hostile.tries(40):
        content = hostile.mutated(whole, rng)
        try:
            (prediction,) = predictor.predict(content)
        except UnreadableImageError:
            continue
        assert sum(prediction.probs.values()) == pytest.approx(1.0, abs=1e-3)
    assert predictor.predict(whole)[0].prob > 0
    items = [Item(str(number), 0) for number in range(8)]
    contents = [hostile.mutated(whole, rng) for rng in list(hostile.tries(8))[:8]]
    source = Source("x", ("a", "b"), tuple(items), lambda item: contents[int(item.name)], "")
    prints = take_fingerprints(source, items, None, 1, lambda count: None)
    assert set(prints.unreadable) == {
        item.name for item, good in zip(items, prints.readable, strict=True) if not good
    }


def test_bytes_of_another_kind_start_no_program(tmp_path):
    """EPS in a .jpg had Pillow start Ghostscript."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for content in (eps, b"%PDF-1.4\n", b"<svg/>", b"P9\n", b"GIF89a"):
        with pytest.raises(UnreadableImageError, match="UnidentifiedImageError"):
            read_image(content)
    with pytest.raises(UnreadableImageError, match="an empty file"):
        read_image(b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_file_is_none(tmp_path, distill, tiny_onnx, write_images):
    """A pipe was waited for without end, a sparse file of 8 GB read for a minute."""
    folder = write_images(tmp_path / "pictures", ["a.jpg", "b.jpg"])
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(8 * 2**30)
    (folder / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    status, out, err = distill("predict", tiny_onnx, folder)
    assert status == 2
    assert len(out.splitlines()) == 2
    assert "sparse.jpg" in err
    assert "8,589,934,592 bytes" in err
    assert "lost.jpg" in err
    assert "2 of 4 pictures could not be read" in err
    status, _, err = distill("predict", tiny_onnx, folder / "pipe.jpg")
    assert status == 2
    assert "a pipe or a device" in err
    with pytest.raises(UnreadableImageError, match="a folder"):
        read_file(folder / "folder.jpg")


MEASURE = """
import contextlib, resource, sys
from distill.data.decode import UnreadableImageError, read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with contextlib.suppress(UnreadableImageError):
    read_image(sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        *((mode, (5000, 5000)) for mode in ("I;16", "RGB", "RGBA", "LA", "P")),
        *(("L", (1, 40_000)), ("1", (100_000, 1))),
    ],
)
def test_memory_stays_bounded(mode, size, tmp_path):
    """16-bit pictures were widened to 64 bits (348 kB: 3.6 GB), transparent ones copied thrice."""
    pytest.importorskip("resource")
    image, transparent = Image.new(mode, size), {"transparency": 0} if mode == "P" else {}
    image.save(tmp_path / "large.png", **transparent)
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path / "large.png")]
    grown = 1024 * int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert grown < 9 * size[0] * size[1] + 16 * 2**20


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_an_error_of_the_disk_is_none_of_the_picture(
    code, monkeypatch, tmp_path, distill, tiny_onnx, write_images
):
    """It was said to be unreadable, as if there were no picture in it."""
    folder, whole = write_images(tmp_path, ["a.jpg", "b.jpg"]), Path.read_bytes

    def read_bytes(path):
        if path.name == "a.jpg":
            raise OSError(code, os.strerror(code), str(path))
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(OSError, match=os.strerror(code)):
        read_image(folder / "a.jpg")
    status, out, err = distill("predict", tiny_onnx, folder)
    assert status == 2
    assert len(out.splitlines()) == 1
    assert os.strerror(code) in err

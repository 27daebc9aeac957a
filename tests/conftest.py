"""Fixtures that several test files share."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images beside the checkout; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} is missing")
    return folder


@pytest.fixture
def write_images() -> Callable[..., Path]:
    """Writes one small JPEG of noise per name below a folder."""

    def write(root: Path, names: Iterable[str], size: tuple[int, int] = (20, 16)) -> Path:
        rng = np.random.default_rng(0)
        for name in names:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, format="JPEG")
        return root

    return write


@pytest.fixture
def image_folder(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    """Two classes of eight images each, without splits."""
    names = [f"{label}/{i}.jpg" for label in ("cat", "dog") for i in range(8)]
    return write_images(tmp_path / "images", names)

"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill import cli
from distill.config import DataConfig, ModelConfig, ViewsConfig
from distill.progress import Progress

if TYPE_CHECKING:
    from distill.data.prepare import ImageData
    from distill.data.store import Split
    from distill.models import Classifier

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


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """90 painted faces of 32 px, decoded once for all tests: read them, change nothing."""
    from distill.data.prepare import prepare_data

    cache, quiet = tmp_path_factory.mktemp("cache"), Progress(quiet=True)
    return prepare_data("demo:90", DataConfig(size=32), ViewsConfig(), 0, cache, 1, quiet)


@pytest.fixture(scope="session")
def skewed(data: ImageData) -> ImageData:
    """The painted faces with 22, 11 and 3 training images of the classes."""
    from distill.data.store import subset

    labels = data.train.labels
    rows = [np.flatnonzero(labels == label)[:most] for label, most in enumerate((22, 11, 3))]
    train = subset(data.train, np.sort(np.concatenate(rows)))
    return replace(data, splits={**data.splits, "train": train})


@pytest.fixture(scope="session")
def multi_data(data: ImageData) -> ImageData:
    """The painted faces, labelled by what is on them: a mask, chin or nose bare, a bright image.

    Some have none of these.
    """

    def several(split: Split) -> Split:
        bright = split.pixels.mean(axis=(1, 2, 3)) > 110
        labels = np.stack([split.labels < 2, split.labels == 1, bright], axis=1)
        return replace(split, labels=labels.astype(np.int64))

    splits = {name: several(split) for name, split in data.splits.items()}
    return replace(data, splits=splits, classes=("mask", "wrong", "bright"), task="multi")


@pytest.fixture(scope="session")
def ship_briefly() -> Callable[..., tuple[Path, NDArray[np.uint8], Classifier]]:
    """Trains a small student for seconds and exports it.

    Returns its fp32 file, the training images that it has learned, and the classifier. The number
    of steps may be given, and what is done to it before it is exported.
    """
    import torch

    from distill.data.training import TrainingImages
    from distill.export.onnx_fp32 import export_onnx
    from distill.models import build_classifier

    options = {"width": [16, 32], "depth": [1, 2], "head_width": 64}
    model = ModelConfig(name="compact", options=options)

    def ship(
        data: ImageData,
        folder: Path,
        steps: int = 20,
        change: Callable[[Classifier], None] = lambda _: None,
    ) -> tuple[Path, NDArray[np.uint8], Classifier]:
        torch.manual_seed(0)
        classifier = build_classifier(model, data.classes, data.spec, task=data.task).train()
        images = TrainingImages((data.train,), data.classes, ViewsConfig(), 0, data.spec.height)
        views = images.view(np.arange(len(images)), 0, torch.device("cpu"))
        labels, several = torch.tensor(data.train.labels), data.task == "multi"
        loss = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(classifier.parameters(), 1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(classifier(views).logits, labels.float() if several else labels).backward()
            optimizer.step()
        change(classifier.eval())
        metadata = {"names": list(data.classes), "task": data.task, "thresholds": {}}
        metadata |= {"input_spec": data.spec.model_dump(), "mean": classifier.contract.mean}
        metadata |= {"metrics": {}, "precision": "fp32", "license": "MIT", "producer": "test"}
        file = folder / "student.fp32.onnx"
        export_onnx(classifier, file, metadata, data.test.pixels)
        pixels = views.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return file, pixels, classifier

    return ship


@pytest.fixture(scope="session")
def only() -> Callable[..., ViewsConfig]:
    """Options of the views that change nothing but what is named."""
    nothing: dict[str, Any] = {
        "margin": 0.0,
        "crop_scale": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "flip": 0.0,
        "rotate_degrees": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "erase": 0.0,
    }
    return lambda **options: ViewsConfig(**{**nothing, **options})


@pytest.fixture
def distill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process; returns exit status, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["distill", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return call

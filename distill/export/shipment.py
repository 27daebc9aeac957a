"""What export targets are made from: a trained student, its data, and the files made before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.config import ExportConfig
from distill.data.decode import resize_image
from distill.data.prepare import ImageData
from distill.data.store import spread
from distill.data.views.images import TrainingImages
from distill.errors import RunStopped
from distill.export.int8.quantiser import Distil
from distill.export.licences import Material
from distill.export.onnx_file import probs_of_file
from distill.export.parity import FLOAT32, Limits, answer_rule, compare_probs
from distill.models.classifier import Classifier
from distill.progress import Progress
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of

CALIBRATION_IMAGES = 256  # training images that int8 takes its ranges from
KNOWN_IMAGES = 1000  # training images that others are compared with


@dataclass(frozen=True)
class Shipment:
    """A trained student, to be exported in several forms.

    Attributes:
        student: Name of its run.
        weights: The file of its weights.
        model: Name and options of its network, as `config.json` has them.
        metadata: What the fp32 file says of itself.
        val_probs: Its probabilities of the validation split in torch, `(n, classes)`.
        data: The images, of which `val` is what files are scored on.
        images: The training images as views, which int8 takes its ranges from.
        folder: Where finished targets lie.
        threads: Threads of onnxruntime while a file is timed; 0 leaves it to onnxruntime.
        distil: Trains the student to be rounded; None where the recipe has that off.
        materials: What it was made from.
    """

    student: str
    weights: Path
    model: dict[str, Any]
    classifier: Classifier
    metadata: dict[str, Any]
    val_probs: NDArray[np.float32]
    data: ImageData
    images: TrainingImages
    config: ExportConfig
    folder: Path
    progress: Progress
    threads: int = 0
    distil: Distil | None = None
    materials: Sequence[Material] = ()

    def onnx(self, precision: str = "fp32") -> Path | None:
        """The ONNX file of a precision, None where there is none."""
        file = self.folder / f"student.{precision}.onnx"
        return file if file.is_file() else None

    @property
    def fp32(self) -> Path:
        """The reference file."""
        return self.folder / "student.fp32.onnx"

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """Probabilities of the validation split by the reference file, `(n, classes)`."""
        return probs_of_file(self.fp32, self.data.val.pixels)

    @cached_property
    def known_pixels(self) -> NDArray[np.uint8]:
        """Training images, spread over the split, as they are in use: `(n, height, width, 3)`.

        They are stored larger, and resized once more than in use.
        """
        train, spec = self.data.train, self.data.spec
        stored = train.take(spread(train, KNOWN_IMAGES))
        return np.stack([resize_image(Image.fromarray(pixels), spec) for pixels in stored])

    def metrics(self, probs: NDArray[np.float32]) -> dict[str, Any]:
        """What a file with these probabilities says of itself: its scores on validation."""
        tuned = [*self.metadata["thresholds"].values()]
        thresholds = np.asarray(tuned, np.float32) if tuned else None
        scores = score(np.nan_to_num(probs), self.data.val.labels, self.data.classes, thresholds)
        return {"split": "val", **scores}

    def judge(
        self, probs: NDArray[Any], reference: NDArray[Any] | None = None, limits: Limits = FLOAT32
    ) -> dict[str, Any]:
        """Main scores of a file on validation and of what it was made from, and their parity.

        Args:
            probs: Of the validation split.
            reference: What it was made from; None for the reference file.
        """
        expected = self.reference if reference is None else reference
        main = task_of(self.data.task).main_score
        scored = [
            score(np.nan_to_num(matrix), self.data.val.labels, self.data.classes)[main]
            for matrix in (probs, expected)
        ]
        parity = compare_probs(probs, expected, *answer_rule(self.metadata), limits)
        return {"split": "val", main: scored[0], f"reference_{main}": scored[1], **vars(parity)}

    def demand(
        self,
        probs: NDArray[Any],
        path: str,
        limits: Limits = FLOAT32,
        reference: NDArray[Any] | None = None,
    ) -> dict[str, Any]:
        """`judge`, of a file that has no excuse to differ.

        Args:
            path: How it was made, for the error.

        Raises:
            RunStopped: It differs by more than the limits.
        """
        row = self.judge(probs, reference, limits)
        if not limits.allow(row):
            hint = "leave that target out of export.targets"
            raise RunStopped(f"{path} gives other answers: {json.dumps(row)}", None, hint)
        return row

    def say(self, line: str) -> None:
        """A line of progress."""
        self.progress.say(f"export: {line}")

    def calibration_pixels(self) -> NDArray[np.uint8]:
        """View 0 of some training images, drawn by the seed: uint8 `(n, height, width, 3)`."""
        images, cpu = self.images, torch.device("cpu")
        count = min(CALIBRATION_IMAGES, len(images))
        ids = np.random.default_rng(images.seed).choice(len(images), count, replace=False)
        views = [images.view(ids[i : i + 64], 0, cpu) for i in range(0, count, 64)]
        pixels = torch.cat(views).mul(255.0).round().to(torch.uint8).permute(0, 2, 3, 1)
        result: NDArray[np.uint8] = pixels.contiguous().numpy()
        return result

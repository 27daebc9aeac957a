"""What shapes of a student cost here: as ONNX files with random weights, timed side by side."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from distill.config import ModelConfig, Recipe
from distill.data.decode import InputSpec
from distill.data.prepare import input_spec
from distill.export.int8.quantiser import Quantiser
from distill.export.onnx_fp32 import export_onnx
from distill.models.classifier import Classifier, build_classifier
from distill.models.deployed import deployed
from distill.progress import Progress
from distill.runtime.latency import turns_ns
from distill.runtime.predict import Predictor
from distill.scoring.tasks import task_of
from distill.search.space import Candidate, ShapeRow

CALIBRATION_IMAGES = 8  # of noise: ranges do not change what an integer kernel costs
TURNS, CALLS, IMAGES = 5, 60, 10  # of each file while it is timed


def time_candidates(
    recipe: Recipe, shapes: Iterable[Candidate], classes: tuple[str, ...], progress: Progress
) -> list[ShapeRow]:
    """A row per shape, in their order: what it is, and what it costs.

    Parameters, multiplications (`macs`) and file are those of the deployed network.

    Args:
        classes: A class has a row of the last layer twice: for `prob` and, in float, for `cam`.
    """
    shapes, main_score = list(shapes), task_of(recipe.data.task).main_score
    with tempfile.TemporaryDirectory() as name:
        counts, files = [], []
        with progress.task("shapes", len(shapes), "shapes") as task:
            for shape in shapes:
                classifier = random_student(recipe, shape, classes)
                files.append(_write(classifier, shape, recipe.search.precision, Path(name)))
                network = deployed(classifier)
                params = sum(p.numel() for p in network.parameters())
                counts.append((params, count_macs(network)))
                task.advance()
        spent = time_files(files, recipe.bench.threads, progress)
        return [
            ShapeRow(
                name=shape.name,
                kind=shape.kind,
                params=params,
                macs=macs,
                size_bytes=file.stat().st_size,
                latency_ms=latency_ms,
                images_per_s=1000 / latency_ms,
                main_score=main_score,
            )
            for shape, (params, macs), file, latency_ms in zip(
                shapes, counts, files, spent, strict=True
            )
        ]


def time_files(files: Sequence[Path], threads: int, progress: Progress) -> list[float]:
    """Latency of one image in ms for each file: the median of the medians of several turns."""
    random = np.random.default_rng(0)
    images = {file: noise(Predictor(file, threads=1).spec, random) for file in files}
    with progress.task("timing", TURNS * len(files), "turns") as task:
        spent = turns_ns(images, TURNS, CALLS, threads, task.advance)
    return [statistics.median(map(statistics.median, spent[file])) / 1e6 for file in files]


def noise(spec: InputSpec, random: np.random.Generator) -> NDArray[np.uint8]:
    """A few images that show nothing, uint8 `(n, height, width, 3)`."""
    return random.integers(0, 256, (IMAGES, spec.height, spec.width, 3), dtype=np.uint8)


def count_macs(classifier: Classifier) -> int:
    """Multiplications for one image: of convolutions and matrix products."""
    size = classifier.contract.input_size
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        classifier(torch.zeros(1, 3, size, size))
    return int(counter.get_total_flops()) // 2  # each with an addition


def random_student(recipe: Recipe, shape: Candidate, classes: tuple[str, ...]) -> Classifier:
    """A shape with random weights.

    Raises:
        UserError: There is no such network.
    """
    data = recipe.data.model_copy(update={"size": shape.size})
    model = ModelConfig(name="compact", options=shape.options)
    return build_classifier(model, classes, input_spec(data), task=data.task).eval()


def _write(classifier: Classifier, shape: Candidate, precision: str, folder: Path) -> Path:
    """The file that would be shipped, but for its weights."""
    spec = classifier.contract.input_spec
    size = (CALIBRATION_IMAGES, spec.height, spec.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    metadata = {
        "names": list(classifier.contract.names),
        "task": classifier.contract.task,
        "input_spec": spec.model_dump(),
        "thresholds": {},
    }
    file = folder / f"{shape.name}.onnx"
    # The old exporter takes a tenth of the time, and gives the same operators for these layers.
    export_onnx(classifier, file, metadata, pixels, "legacy")
    if precision == "int8":
        Quantiser(file, pixels, folder).quantise("minmax").replace(file)
    return file

"""The gate of the int8 file: what a quantised file is held against before it is published."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from distill.config import ExportConfig
from distill.errors import UserError
from distill.export.int8.calibration import Pixels
from distill.export.int8.integers import float_in_disguise, kernels
from distill.export.int8.quantiser import Distil, Quantiser
from distill.export.int8.steps import Step, escalate, gains, is_too_large
from distill.export.onnx_file import describe, probs_of_file
from distill.files import JsonModel, write_bytes
from distill.runtime.latency import turns_ns
from distill.runtime.predict import Predictor
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.scoring.thresholds import tune

TURNS, CALLS = 16, 8  # of each file while it is timed, one image a call


class Reference(JsonModel):
    """The fp32 file, and its main score on validation in percent."""

    file: str
    score: float


class NumImages(JsonModel):
    """How many images the ranges and the scores are from."""

    calibration: int
    val: int


class Int8Export(JsonModel):
    """What was tried.

    Attributes:
        score: Name of the main score.
        max_drop: How many points of it may be lost.
        thresholds: How those of the published file were tuned; None if no step passed.
    """

    score: str
    max_drop: float
    reference: Reference
    images: NumImages
    steps: tuple[Step, ...]
    thresholds: dict[str, Any] | None = None


@dataclass(frozen=True)
class Gate:
    """What a quantised file is held against.

    Attributes:
        source: The fp32 file.
        pixels: The validation split, uint8 `(n, height, width, 3)`.
        labels: As `distill.scoring.metrics.score` takes them.
        config: Whose rule the thresholds are tuned by, and `int8_max_drop`.
        threads: Threads of onnxruntime while it is timed; 0 leaves it to onnxruntime.
        folder: For temporary files.
    """

    source: Path
    pixels: Pixels
    labels: NDArray[np.int64]
    config: ExportConfig
    threads: int
    folder: Path

    @cached_property
    def predictor(self) -> Predictor:
        """The fp32 file, which says what the classes and the task are."""
        return Predictor(self.source)

    @property
    def main(self) -> str:
        """The score that decides."""
        return task_of(self.predictor.task).main_score

    @cached_property
    def reference(self) -> float:
        """The main score of the fp32 file on validation, in percent."""
        return self._main_score(probs_of_file(self.source, self.pixels))

    def judge(self, step: Step, file: Path, layers: Sequence[str]) -> Step:
        """The step with score, size, time and kernels of its file, or why it is `refused`, or both.

        Args:
            layers: Names of those that the file should have in integers.
        """
        try:
            probs, ran = probs_of_file(file, self.pixels), kernels(file, self.folder)
        except UserError as error:
            reason = f"onnxruntime does not open it: {error.what}"
            return step.model_copy(update={"refused": reason})
        main_score, size_bytes = self._main_score(probs), file.stat().st_size
        figures = {
            "score": main_score,
            "drop": self.reference - main_score,
            "size_bytes": size_bytes,
            "size_ratio": size_bytes / self.source.stat().st_size,
            "time_ratio": time_ratio(file, self.source, self.pixels, self.threads),
            "kernels": dict(ran.most_common()),
        }
        judged = step.model_copy(update=figures)
        reasons = [*float_in_disguise(file, layers, ran), *self._losses(judged)]
        try:
            tune(probs, self.labels, self.predictor.names, self.config)
        except UserError as error:  # an accuracy that no threshold reaches
            reasons.append(error.what)
        return judged.model_copy(update={"refused": "; ".join(reasons) or None})

    def publication(self, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Metadata of a file with its own thresholds and validation scores, and what those do."""
        probs, names = probs_of_file(file, self.pixels), self.predictor.names
        tuned = tune(probs, self.labels, names, self.config)
        own = {
            "precision": "int8",
            "thresholds": tuned.thresholds,
            "metrics": {"split": "val", **score(probs, self.labels, names, tuned.array())},
        }
        return {**self.predictor.metadata, **own}, {"split": "val", **tuned.record}

    def _main_score(self, probs: NDArray[np.float32]) -> float:
        return float(score(probs, self.labels, self.predictor.names)[self.main])

    def _losses(self, step: Step) -> list[str]:
        """What speaks against the figures of a step."""
        reasons, most = [], self.config.int8_max_drop
        assert step.drop is not None
        if step.drop > most + 1e-9:  # percentages are rounded, so is what lies between
            reasons.append(f"{step.drop:.2f} points of {self.main} are lost, {most:g} may be")
        if not gains(step):
            reasons.append("neither faster nor smaller")
        if is_too_large(step, most_kb := self.config.int8_max_kb):
            reasons.append(f"it has {(step.size_bytes or 0) / 1000:.0f} kB, {most_kb:g} may be")
        return reasons


def export_int8(
    source: Path,
    file: Path,
    calibration: Pixels,
    val: tuple[Pixels, NDArray[np.int64]],
    config: ExportConfig,
    threads: int = 0,
    distil: Distil | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Int8Export:
    """Writes `file`, an int8 version of `source`, if there is one that passes.

    Args:
        calibration: Training images that the ranges of the activations are taken from, uint8
            `(n, height, width, 3)`.
        val: Images and labels that it is scored on.
        distil: Quantisation-aware training, for where nothing else passes; None does without.
        tell: Is told of every step that does not pass.

    Returns:
        The `reference` and all `steps`; and `thresholds` if the last step passed.
    """
    with tempfile.TemporaryDirectory() as name:
        gate = Gate(source, *val, config, threads, Path(name))
        quantiser = Quantiser(source, calibration, Path(name), distil)
        steps, passed = escalate(quantiser, gate.judge, tell, config.int8_max_kb)
        record = Int8Export(
            score=gate.main,
            max_drop=config.int8_max_drop,
            reference=Reference(file=source.name, score=gate.reference),
            images=NumImages(calibration=len(calibration), val=len(gate.labels)),
            steps=tuple(steps),
        )
        if passed is None:
            return record
        metadata, thresholds = gate.publication(passed)
        model = onnx.load(passed)
        describe(model, metadata)
        write_bytes(file, model.SerializeToString())
        return record.model_copy(update={"thresholds": thresholds})


def time_ratio(file: Path, reference: Path, pixels: Pixels, threads: int = 0) -> float:
    """Median latency of one image as a share of the reference's, over short turns about.

    The fastest call of a turn stands for it, as the others tell of whatever else runs: where two
    trainings ran beside it, the median of all calls was between 0.1 and 2.7 where this was within
    0.05.
    """
    spent = turns_ns(dict.fromkeys((file, reference), pixels), TURNS, CALLS, threads)
    typical = {
        path: statistics.median(min(turn) for turn in turns) for path, turns in spent.items()
    }
    return typical[file] / typical[reference]

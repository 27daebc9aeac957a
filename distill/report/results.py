"""What `results.json` holds: a row per trained model, control and exported file, and warnings."""

from __future__ import annotations

from typing import Any, Literal

from distill.files import JsonModel

Scores = dict[str, Any]  # what `scoring.metrics.score` returns


class Caution(JsonModel):
    """Something that is wrong with a result.

    Attributes:
        what: What was seen, with its figures.
        fix: What to do about it.
    """

    kind: str
    what: str
    fix: str

    def __str__(self) -> str:
        """The line that a terminal has of it."""
        return f"WARNING: {self.what}. Fix: {self.fix}."


class ResultRow(JsonModel):
    """One model. None is for what was not measured, and is absent from the file.

    Attributes:
        test: Scores on the test split.
        agreement_top1, agreement_labels: Share of test images on which it agrees with the best
            teacher, in percent; of the top class, or of all labels.
        kl_teacher: Mean divergence of its probabilities from that teacher's, in nats per image.
    """

    name: str
    kind: Literal["teacher", "student", "control", "onnx"]
    strategy: str | None = None
    seed: int | None = None
    params: int | None = None
    size_bytes: int | None = None
    test: Scores | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    images_per_s: float | None = None
    batch_size: int | None = None
    agreement_top1: float | None = None
    agreement_labels: float | None = None
    kl_teacher: float | None = None


class Results(JsonModel):
    """The rows, what follows from them, and what they were measured with.

    Attributes:
        warnings: What nobody should ship without having read it.
        plan: Seconds per stage: `real_s` and, where there was a plan, `predicted_s` and
            `predicted_range_s` of the whole; `energy_j` of stages where the machine has counters.
        robustness: Of the shipped `file`, the main score of `n` test images as they are, and in
            `rows` after each stress: `name`, `strength`, and the score.
        distance: Of the shipped `file`, `quarters` of the test images by their distance from the
            training images, as `scoring.distance.Quarter` has them, the nearest first.
        elsewhere: For each `location` of `also`, in `rows` the scores `test` by `name`, and
            `farther_percent` of the images: those farther than the nearest three quarters.
    """

    rows: tuple[ResultRow, ...]
    warnings: tuple[Caution, ...] = ()
    verdict: dict[str, Any]
    env: dict[str, Any]
    plan: dict[str, Any] | None = None
    robustness: dict[str, Any] | None = None
    distance: dict[str, Any] | None = None
    elsewhere: tuple[dict[str, Any], ...] = ()

"""The steps of the int8 file: each is gentler, and dearer, than the one that lost too much.

Other ranges come first, then layers in float, then training. Every step is on record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from distill.errors import first_line
from distill.export.int8.calibration import METHODS, Method
from distill.files import JsonModel, blame_system

MIN_GAIN = 0.05  # of the time or of the size, as a share: less is not worth a second file
SENSITIVE = (1, 2, 4)  # how many of the most sensitive layers are left in float, one step each
DISTILLATION = "quantisation-aware distillation"


class Step(JsonModel):
    """What was tried, and what came of it; None is for what was not measured.

    Attributes:
        calibration: How the ranges of the activations were found.
        float_layers: Names of the layers that are not in integers.
        score, drop: The main score on validation in percent, and the points lost to the fp32 file.
        size_ratio, time_ratio: As shares of the fp32 file's.
        kernels: How many of each onnxruntime ran.
        refused: Why the file is not published; None if it may be.
    """

    step: str
    calibration: Method
    float_layers: tuple[str, ...] = ()
    score: float | None = None
    drop: float | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    time_ratio: float | None = None
    kernels: dict[str, int] | None = None
    refused: str | None = None


Judge = Callable[[Step, Path, Sequence[str]], Step]


class Quantises(Protocol):
    """What the steps ask of a `Quantiser`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the first and last ones."""

    @property
    def can_distil(self) -> bool:
        """Whether weights can be trained."""

    def quantise(self, method: Method, floats: Sequence[str] = ()) -> Path:
        """A file with these layers in float."""

    def distilled(self, method: Method) -> Path:
        """A file of trained weights, all layers in integers."""

    def by_sensitivity(self, method: Method) -> list[str]:
        """All layers, the most sensitive first."""


def escalate(
    quantiser: Quantises,
    judge: Judge,
    tell: Callable[[str], None] = lambda line: None,
    most_kb: float = 0.0,
) -> tuple[list[Step], Path | None]:
    """Takes steps until one is not `refused`: all of them, and the file of the one that held.

    Stops early where integers throughout are neither faster nor smaller, or still too large.

    Args:
        judge: Completes a step by its file and the layers that this should have in integers.
        tell: Is told of every step that does not hold.
        most_kb: Largest file, in units of 1,000 bytes; 0 for any.
    """
    steps: list[Step] = []
    for step in plan_steps(quantiser, steps):
        method, floats = step.calibration, step.float_layers
        try:
            trains = step.step == DISTILLATION
            file = quantiser.distilled(method) if trains else quantiser.quantise(method, floats)
        except Exception as error:  # the quantiser raises anything from TypeError to RuntimeError
            blame_system(error)
            reason = f"cannot be quantised: {first_line(error)}"
            steps.append(step.model_copy(update={"refused": reason}))
            continue
        steps.append(judge(step, file, [name for name in quantiser.layers if name not in floats]))
        if steps[-1].refused is None:
            return steps, file
        tell(f"int8 by {step.step}: {steps[-1].refused}")
        if not floats and (not gains(steps[-1]) or is_too_large(steps[-1], most_kb)):
            break
    return steps, None


def plan_steps(quantiser: Quantises, steps: Sequence[Step]) -> Iterator[Step]:
    """The steps before they are taken, `steps` being what came of those that were.

    First ranges by extremes, percentile, entropy and squared error, with all layers in integers.
    Then those that lost least, with the first and last layers in float, and with the most sensitive
    ones as well. At last all layers in integers again, trained to be so.
    """
    for method in METHODS:
        yield Step(step=method, calibration=method)
    best = closest(steps)
    if best is None:
        return
    method = best.calibration
    for name, floats in _in_float(quantiser, method):
        yield Step(step=name, calibration=method, float_layers=floats)
        if not gains(steps[-1]):  # with more layers in float it would gain even less
            break
    if quantiser.can_distil:
        yield Step(step=DISTILLATION, calibration=method)


def _in_float(quantiser: Quantises, method: Method) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of the steps that leave layers in float, and these layers."""
    ends, total = tuple(quantiser.ends), len(quantiser.layers)
    if len(ends) == total:  # nothing would be left to quantise
        return
    yield "ends in float", ends
    inner = [layer for layer in quantiser.by_sensitivity(method) if layer not in ends]
    for count in SENSITIVE:
        if count < len(inner):
            yield f"ends and {count} more in float", (*ends, *inner[:count])


def closest(steps: Sequence[Step]) -> Step | None:
    """The first of those that lost least; None if none was scored."""
    scored = [(step.drop, step) for step in steps if step.drop is not None]
    return min(scored, key=lambda pair: pair[0])[1] if scored else None


def gains(step: Step) -> bool:
    """Whether a file is faster or smaller than the fp32 file; without figures it may be."""
    if step.time_ratio is None or step.size_ratio is None:
        return True
    return min(step.time_ratio, step.size_ratio) <= 1 - MIN_GAIN


def is_too_large(step: Step, most_kb: float) -> bool:
    """Whether a file has more than so many units of 1,000 bytes; 0 for any."""
    return 0.0 < most_kb < (step.size_bytes or 0) / 1000


def summary(steps: Sequence[Step], main_score: str) -> str:
    """What came of the steps, in one line."""
    best, last = closest(steps), steps[-1]
    if best is None:
        return f"no int8 file: {steps[0].refused}"
    passed = last.refused is None
    step = last if passed else best
    assert step.drop is not None
    gained = round(-step.drop, 2) + 0.0  # no "-0.00"
    figures = (
        f"{step.score:.2f} % {main_score} on validation ({gained:+.2f} points), "
        f"{step.size_ratio:.2f} of the size, {step.time_ratio:.2f} of the time"
    )
    if passed:
        return f"int8 by {step.step}: {figures}"
    return f"no int8 file, the best of {len(steps)} steps ({step.step}): {figures}: {step.refused}"

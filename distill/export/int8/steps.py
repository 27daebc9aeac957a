"""The steps of the int8 file: each is gentler, and dearer, than the one that lost too much.

Other ranges come first, then layers in float, then training. Every step is on record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from distill.export.int8.calibration import METHODS, Method

MIN_GAIN = 0.05  # of the time or of the size, as a share: less is not worth a second file
SENSITIVE = (1, 2, 4)  # how many of the most sensitive layers are left in float, one step each
DISTILLATION = "quantisation-aware distillation"
Record = dict[str, Any]
Judge = Callable[[Path, Sequence[str]], Record]


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


def escalate(quantiser: Quantises, judge: Judge) -> tuple[list[Record], Path | None]:
    """Takes steps until one is not `refused`: a record of each, and the file of the one that held.

    Stops early where integers throughout are neither faster nor smaller.
    """
    steps: list[Record] = []
    for name, method, floats in plan_steps(quantiser, steps):
        row: Record = {"step": name, "calibration": method, "float_layers": floats}
        steps.append(row)
        try:
            trains = name == DISTILLATION
            file = quantiser.distilled(method) if trains else quantiser.quantise(method, floats)
        except Exception as error:  # the quantiser raises anything from TypeError to RuntimeError
            row["refused"] = f"cannot be quantised: {(str(error) or repr(error)).splitlines()[0]}"
            continue
        row |= judge(file, [layer for layer in quantiser.layers if layer not in floats])
        if "refused" not in row:
            return steps, file
        if not floats and not gains(row):
            break
    return steps, None


def plan_steps(
    quantiser: Quantises, steps: list[Record]
) -> Iterator[tuple[str, Method, list[str]]]:
    """Name, calibration and float layers of each step, `steps` being what came of those before.

    First ranges by extremes, percentile, entropy and squared error, with all layers in integers.
    Then those that lost least, with the first and last layers in float, and with the most sensitive
    ones as well. At last all layers in integers again, trained to be so.
    """
    for method in METHODS:
        yield method, method, []
    scored = [row for row in steps if "drop" in row]
    if not scored:
        return
    method = min(scored, key=lambda row: row["drop"])["calibration"]
    for name, floats in _in_float(quantiser, method):
        yield name, method, floats
        if not gains(steps[-1]):  # with more layers in float it would gain even less
            break
    if quantiser.can_distil:
        yield DISTILLATION, method, []


def _in_float(quantiser: Quantises, method: Method) -> Iterator[tuple[str, list[str]]]:
    """Names of the steps that leave layers in float, and these layers."""
    ends, total = list(quantiser.ends), len(quantiser.layers)
    if len(ends) == total:  # nothing would be left to quantise
        return
    yield "ends in float", ends
    inner = [layer for layer in quantiser.by_sensitivity(method) if layer not in ends]
    for count in SENSITIVE:
        if count < len(inner):
            yield f"ends and {count} more in float", [*ends, *inner[:count]]


def gains(row: Record) -> bool:
    """Whether a file is faster or smaller than the fp32 file; without figures it may be."""
    return "drop" not in row or bool(min(row["time_ratio"], row["size_ratio"]) <= 1 - MIN_GAIN)


def summary(record: Record) -> str:
    """What came of it, in one line."""
    scored = [row for row in record["steps"] if "drop" in row]
    if not scored:
        return f"no int8 file: {record['steps'][0]['refused']}"
    last = record["steps"][-1]
    passed = "refused" not in last
    row = last if passed else min(scored, key=lambda row: row["drop"])
    gained = round(-row["drop"], 2) + 0.0  # no "-0.00"
    figures = (
        f"{row['score']:.2f} % {record['score']} on validation ({gained:+.2f} points), "
        f"{row['size_ratio']:.2f} of the size, {row['time_ratio']:.2f} of the time"
    )
    if passed:
        return f"int8 by {row['step']}: {figures}"
    steps = len(record["steps"])
    return f"no int8 file, the best of {steps} steps ({row['step']}): {figures}: {row['refused']}"

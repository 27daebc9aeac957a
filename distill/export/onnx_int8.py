"""The int8 file: quantised from the fp32 file step by step, and published only if it is worth it.

A step that loses too much on the validation split is followed by a gentler one: other ranges, then
the first and last layers in float, then the most sensitive ones too. Every step is on record.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from distill.config import ExportConfig
from distill.errors import UserError
from distill.export.integer_graph import float_in_disguise, kernels
from distill.export.onnx_file import describe, probs_of_file
from distill.export.qdq import METHODS, Method, Pixels, Quantiser
from distill.metrics import main_score, score
from distill.predict import Predictor, open_session
from distill.run import atomic
from distill.thresholds import tune

MIN_GAIN = 0.05  # of the time or of the size, as a share: less is not worth a second file
SENSITIVE = (1, 2, 4)  # how many of the most sensitive layers the last steps leave in float
TURNS, CALLS = 16, 7
Record = dict[str, Any]
Judge = Callable[[Path, int], Record]


class Quantises(Protocol):
    """What the steps ask of a `Quantiser`."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Names of the first and last ones."""

    def quantise(self, method: Method, floats: Sequence[str] = ()) -> Path:
        """A file with these layers in float."""

    def by_sensitivity(self, method: Method) -> list[str]:
        """All layers, the most sensitive first."""


@dataclass(frozen=True)
class Gate:
    """What a quantised file is held against.

    Attributes:
        source: The fp32 file.
        pixels: The validation split, uint8 `(n, height, width, 3)`.
        labels: As `distill.metrics.score` takes them.
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
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return Predictor(self.source).names

    @cached_property
    def main(self) -> str:
        """The score that decides."""
        return main_score(Predictor(self.source).task)

    @cached_property
    def reference(self) -> float:
        """The main score of the fp32 file, in percent."""
        return self.score_of(self.source)

    def score_of(self, file: Path) -> float:
        """The main score of a file on the whole validation split, in percent."""
        probs = probs_of_file(file, self.pixels)
        return float(score(probs, self.labels, self.names)[self.main])

    def judge(self, file: Path, num_layers: int) -> Record:
        """Score, size, time and kernels of a file, and why it is `refused`, if it is.

        Args:
            num_layers: How many of its layers should be quantised.
        """
        found = self.score_of(file)
        ran = kernels(file, self.folder)
        row: Record = {
            "score": found,
            "drop": self.reference - found,
            "size_bytes": file.stat().st_size,
            "size_ratio": file.stat().st_size / self.source.stat().st_size,
            "time_ratio": time_ratio(file, self.source, self.pixels, self.threads),
            "kernels": dict(ran.most_common()),
        }
        reasons = [*float_in_disguise(file, num_layers, ran), *self._losses(row)]
        if not reasons:
            try:
                self.publication(file)
            except UserError as error:  # an accuracy that its thresholds cannot reach
                reasons.append(str(error))
        return {**row, "refused": "; ".join(reasons)} if reasons else row

    def _losses(self, row: Record) -> list[str]:
        """What speaks against a file of these figures."""
        reasons, allowed = [], self.config.int8_max_drop
        if row["drop"] > allowed + 1e-9:  # which is what is left of two equal differences
            reasons.append(
                f"loses {row['drop']:.2f} points of {self.main}, {allowed:g} are allowed"
            )
        if min(row["time_ratio"], row["size_ratio"]) > 1 - MIN_GAIN:
            ratios = f"{row['time_ratio']:.2f} of the time, {row['size_ratio']:.2f} of the size"
            reasons.append(f"neither faster nor smaller: {ratios}")
        return reasons

    def publication(self, file: Path) -> tuple[Record, Record]:
        """Metadata of a file with its own thresholds and validation scores, and their record.

        Raises:
            UserError: No threshold makes its answers as accurate as is wanted.
        """
        probs = probs_of_file(file, self.pixels)
        tuned = tune(probs, self.labels, self.names, self.config)
        own = {
            "precision": "int8",
            "thresholds": tuned.thresholds,
            "metrics": {"split": "val", **score(probs, self.labels, self.names, tuned.array())},
        }
        return {**Predictor(self.source).metadata, **own}, {"split": "val", **tuned.record}


def export_int8(
    source: Path,
    file: Path,
    calibration: Pixels,
    val: tuple[Pixels, NDArray[np.int64]],
    config: ExportConfig,
    threads: int = 0,
) -> Record:
    """Writes `file`, an int8 version of `source`, if there is one that passes.

    Args:
        calibration: Training images that the ranges of the activations are taken from, uint8
            `(n, height, width, 3)`.
        val: Images and labels that it is scored on.

    Returns:
        The `reference` and all `steps`; and `thresholds` if the last step passed.
    """
    with tempfile.TemporaryDirectory() as name:
        gate = Gate(source, *val, config, threads, Path(name))
        steps, passed = escalate(Quantiser(source, calibration, Path(name)), gate.judge)
        record: Record = {
            "score": gate.main,
            "max_drop": config.int8_max_drop,
            "reference": {"file": source.name, "score": gate.reference},
            "images": {"calibration": len(calibration), "val": len(gate.labels)},
            "steps": steps,
        }
        if passed is None:
            return record
        metadata, thresholds = gate.publication(passed)
        model = onnx.load(passed)
        describe(model, metadata)
        with atomic(file) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return {**record, "thresholds": thresholds}


def escalate(quantiser: Quantises, judge: Judge) -> tuple[list[Record], Path | None]:
    """Takes steps until one is not `refused`: a record of each, and the file of the one that held.

    1 to 3 are ranges by extremes, percentile and entropy, with all layers in integers. 4 takes the
    ranges that lost least and leaves the first and last layers in float. 5 and later leave the
    most sensitive layers as well.
    """
    steps: list[Record] = []

    def take(name: str, method: Method, floats: Sequence[str]) -> Path | None:
        row: Record = {"step": name, "calibration": method, "float_layers": list(floats)}
        steps.append(row)
        try:
            file = quantiser.quantise(method, floats)
        except Exception as error:  # the quantiser raises anything from TypeError to RuntimeError
            row["refused"] = f"cannot be quantised: {(str(error) or repr(error)).splitlines()[0]}"
            return None
        row |= judge(file, len(quantiser.layers) - len(floats))
        return None if "refused" in row else file

    for method in METHODS:
        if file := take(method, method, ()):
            return steps, file
    scored = [row for row in steps if "drop" in row]
    if not scored:
        return steps, None
    method = min(scored, key=lambda row: row["drop"])["calibration"]
    floats = list(quantiser.ends)
    if len(floats) < len(quantiser.layers) and (file := take("ends in float", method, floats)):
        return steps, file
    inner = [layer for layer in quantiser.by_sensitivity(method) if layer not in floats]
    for count in SENSITIVE:
        if count >= len(inner):  # nothing would be left to quantise
            break
        name = f"ends and {count} more in float"
        if file := take(name, method, [*floats, *inner[:count]]):
            return steps, file
    return steps, None


def time_ratio(file: Path, reference: Path, pixels: Pixels, threads: int = 0) -> float:
    """Median latency of one image as a share of the reference's.

    The two take short turns, so that a machine that is busy for a while slows both. The first call
    of a turn is not counted, nor is the first turn: they warm up.
    """
    sessions = {one: open_session(one, threads) for one in (file, reference)}
    spent: dict[Path, list[int]] = {one: [] for one in sessions}
    for turn in range(1 + TURNS):
        for one in (file, reference) if turn % 2 else (reference, file):
            for call in range(1 + CALLS):
                image = pixels[(turn * CALLS + call) % len(pixels)][None]
                start = perf_counter_ns()
                sessions[one].run(["prob"], {"image": image})
                if turn and call:
                    spent[one].append(perf_counter_ns() - start)
    return statistics.median(spent[file]) / statistics.median(spent[reference])


def summary(record: Record) -> str:
    """What came of it, in one line."""
    scored = [row for row in record["steps"] if "drop" in row]
    if not scored:
        return f"no int8 file: {record['steps'][0]['refused']}"
    last = record["steps"][-1]
    passed = "refused" not in last
    row = last if passed else min(scored, key=lambda row: row["drop"])
    figures = (
        f"{row['score']:.2f} % {record['score']} on validation ({-row['drop']:+.2f} points), "
        f"{row['size_ratio']:.2f} of the size, {row['time_ratio']:.2f} of the time"
    )
    if passed:
        return f"int8 by {row['step']}: {figures}"
    return f"no int8 file after {len(record['steps'])} steps, the best ({row['step']}): {figures}"

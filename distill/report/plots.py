"""Plots of an experiment's results: PNG files for slides, which its page shows too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.files import atomic
from distill.report.results import ResultRow
from distill.scoring.metrics import confusion_matrix
from distill.scoring.tasks import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Probs = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]

# Okabe and Ito's colours, told apart by the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
MARKS = {"teacher": ("s", "#0072B2"), "student": ("o", "#D55E00"), "control": ("^", "#7A7A7A")}
ONNX_MARK = ("D", "#009E73")
MOST_NAMED = 30  # classes of a confusion matrix whose names are written
MOST_CELLS = 12  # classes up to which its shares are written, too
MOST_RUNS = 8  # curves in a panel
BINS = 10  # of confidence
DPI = 120


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG."""
    with atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def panels(count: int, width: float = 4.6, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of some panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def results(rows: Sequence[ResultRow], main: str) -> Figure | None:
    """Score against latency and against size, one mark per model; None where nothing was timed."""
    measures: dict[str, Callable[[ResultRow], float | None]] = {
        "latency of one image, ms": lambda row: row.latency_p50_ms,
        "size, MB": lambda row: row.size_bytes / 1e6 if row.size_bytes else None,
    }
    scored = [row for row in rows if row.test and main in row.test]
    kept = {title: f for title, f in measures.items() if any(f(row) for row in scored)}
    if not kept:
        return None
    figure, axes = panels(len(kept))
    for panel, (title, measure) in zip(axes, kept.items(), strict=True):
        points = [(row, at) for row in scored if (at := measure(row))]
        for row, at in points:
            mark, colour = MARKS.get(row.kind, ONNX_MARK)
            panel.plot(at, (row.test or {})[main], mark, color=colour)
        panel.set_xscale("log")
        panel.margins(x=0.3, y=0.25)
        _name(panel, [(row.name, at, (row.test or {})[main]) for row, at in points])
        panel.set_xlabel(title)
        panel.set_ylabel(f"{main} on test, %")
        panel.grid(alpha=0.3)
    return figure


def _name(panel: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes names beside points, higher where another one is in the way."""
    taken: list[tuple[float, float, float]] = []
    for name, x, y in sorted(points, key=lambda point: point[1:]):
        across, up = panel.transData.transform((x, y)) * 72 / panel.figure.dpi  # in points
        start, end, bottom = across + 5, across + 5 + 4.2 * len(name), up + 3
        while any(start < b and end > a and abs(bottom - c) < 8 for a, b, c in taken):
            bottom += 8
        taken.append((start, end, bottom))
        place: dict[str, Any] = {"xytext": (5, bottom - up), "textcoords": "offset points"}
        panel.annotate(name, (x, y), fontsize=7, **place)


def curves(runs: Mapping[str, Sequence[dict[str, Any]]], main: str) -> Figure:
    """Training loss and validation score by epoch.

    Args:
        runs: The rows of each run's `metrics.jsonl`, by its name.
    """
    figure, (loss, score) = panels(2)
    for number, (name, rows) in enumerate(list(runs.items())[:MOST_RUNS]):
        colour = COLOURS[number % len(COLOURS)]
        for panel, key in ((loss, "train/loss"), (score, f"val/{main}")):
            points = [(epoch, row[key]) for epoch, row in enumerate(rows, 1) if key in row]
            if points:
                marker = "." if len(points) < 30 else None
                panel.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker)
    loss.set_ylabel("training loss")
    loss.set_yscale("log")
    score.set_ylabel(f"{main} on validation, %")
    for panel in (loss, score):
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    score.legend(fontsize=7, frameon=False)
    return figure


def confusion(probs: Mapping[str, Probs], labels: Labels, names: Sequence[str]) -> Figure:
    """Which class is taken for which, a panel per model; shares of each true class."""
    figure, axes = panels(len(probs), 4.8, 4.4)
    for panel, (title, of) in zip(axes, probs.items(), strict=True):
        counts = confusion_matrix(of.argmax(axis=1), labels, len(names))
        shares = 100.0 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        panel.imshow(shares, cmap="Blues", vmin=0.0, vmax=100.0)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("answer")
        panel.set_ylabel("true class")
        if len(names) <= MOST_NAMED:
            panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            panel.set_yticks(range(len(names)), names, fontsize=7)
        if len(names) <= MOST_CELLS:
            for (row, column), share in np.ndenumerate(shares):
                ink = "white" if share > 50 else "black"
                text = f"{share:.0f}" if counts[row, column] else ""
                panel.text(column, row, text, ha="center", va="center", color=ink, fontsize=7)
        panel.spines[:].set_visible(False)
    return figure


def reliability(probs: Mapping[str, Probs], truth: NDArray[np.bool_], task: Task) -> Figure:
    """How often answers are right that are given with some confidence, a line per model."""
    figure, (lines, counts) = panels(2)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    for number, (name, of) in enumerate(probs.items()):
        if task.name == "single":
            sure = of.max(axis=1)
            right = truth[np.arange(len(of)), of.argmax(axis=1)]
        else:
            sure, right = of.ravel(), truth.ravel()
        place = np.clip(np.digitize(sure, edges) - 1, 0, BINS - 1)
        filled = [b for b in range(BINS) if (place == b).any()]
        at = [float(sure[place == b].mean()) for b in filled]
        share = [float(right[place == b].mean()) for b in filled]
        colour = COLOURS[number % len(COLOURS)]
        lines.plot(at, share, "o-", color=colour, label=name, markersize=4)
        counts.step(edges[:-1], np.bincount(place, minlength=BINS), where="post", color=colour)
    lines.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    lines.set_xlabel("confidence")
    lines.set_ylabel("share that is right")
    lines.legend(fontsize=7, frameon=False)
    counts.set_xlabel("confidence")
    counts.set_ylabel("test images" if task.name == "single" else "labels of test images")
    return figure


def coverage(probs: Mapping[str, Probs], labels: Labels) -> Figure:
    """Accuracy of the images that are answered, if only the most confident ones are."""
    figure, (panel,) = panels(1)
    for number, (name, of) in enumerate(probs.items()):
        order = np.argsort(-of.max(axis=1), kind="stable")
        right = (of.argmax(axis=1) == labels)[order]
        answered = np.arange(1, len(right) + 1)
        accuracy = 100.0 * np.cumsum(right) / answered
        few = max(1, len(right) // 50)  # of fewer than these, one error is all there is to see
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(
            100.0 * answered[few - 1 :] / len(right), accuracy[few - 1 :], color=colour, label=name
        )
    panel.set_xlabel("answered, % of the test images")
    panel.set_ylabel("of these right, %")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, frameon=False)
    return figure


def heat(pixels: NDArray[np.uint8], cam: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """A picture with its activation map over it, uint8 `(height, width, 3)`.

    Args:
        cam: Of one class, `(h, w)`, of any size.
    """
    from matplotlib import colormaps
    from PIL import Image

    low, high = float(cam.min()), float(cam.max())
    scaled = (cam - low) / (high - low) if high > low else np.zeros_like(cam)
    small = Image.fromarray((255.0 * scaled).astype(np.uint8))
    large = np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.BICUBIC)) / 255.0
    coloured = 255.0 * colormaps["inferno"](large)[..., :3]
    weight = 0.25 + 0.35 * large[..., None]
    mixed: NDArray[np.uint8] = ((1 - weight) * pixels + weight * coloured).round().astype(np.uint8)
    return mixed

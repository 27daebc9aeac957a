"""Plots of an experiment's results: PNG files for slides, which its page shows too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
MEASURES = {"latency of one image, ms": ("latency_p50_ms", 1.0), "size, MB": ("size_bytes", 1e-6)}
MOST_NAMED = 30  # classes of a confusion matrix whose names are written
MOST_CELLS = 12  # classes up to which its shares are written, too
MOST_RUNS = 7  # curves in a panel, each of its own colour
BINS = 10  # of confidence
LINE, MARK = 9, 4  # height of a name, half the width of a mark, in points
DPI = 120


def save(figure: Figure, file: Path) -> None:
    """Writes a figure as PNG."""
    with atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def panels(
    count: int, width: float = 4.6, height: float = 3.6, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of some panels side by side, row after row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, count, squeeze=False).flat)
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def results(rows: Sequence[ResultRow], main: str) -> Figure | None:
    """Score against latency and against size, one mark per model; None where nothing was timed.

    Networks with random weights, which have no score, are lines.
    """
    scored = {row.name: row.test[main] for row in rows if row.test and main in row.test}
    at = {title: _places(rows, key, scale) for title, (key, scale) in MEASURES.items()}
    kept = {title: places for title, places in at.items() if places.keys() & scored.keys()}
    if not kept:
        return None
    figure, axes = panels(len(kept))
    for panel, (title, places) in zip(axes, kept.items(), strict=True):
        known = [row for row in rows if row.name in places]
        for row in known:
            mark, colour = MARKS.get(row.kind, ONNX_MARK)
            if row.name in scored:
                panel.plot(places[row.name], scored[row.name], mark, color=colour)
            elif row.name.removesuffix(".onnx") not in scored:
                _line(panel, places[row.name], row.name)
        _plain_log(panel)
        panel.margins(x=0.3, y=0.25)
        panel.set_xlabel(title)
        panel.set_ylabel(f"{main} on test, %")
        panel.set_ylim(top=min(101.0, panel.get_ylim()[1]))
        panel.grid(alpha=0.3)
    figure.draw_without_rendering()  # from now on points are where they will be
    for panel, places in zip(axes, kept.values(), strict=True):
        _name(panel, [(name, places[name], y) for name, y in scored.items() if name in places])
    return figure


def _plain_log(panel: Axes) -> None:
    """A logarithmic axis with numbers as people write them, none of them over another."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())


def _places(rows: Sequence[ResultRow], key: str, scale: float) -> dict[str, float]:
    """A measure of each row by name: of the file that was made of a run to be timed, if any.

    Latencies are compared in one engine: beside those of files, those of runs are left out.
    """
    known = {row.name: scale * value for row in rows if (value := getattr(row, key))}
    kinds = {row.name: row.kind for row in rows}
    alike = key == "latency_p50_ms" and any(kinds[name] == "onnx" for name in known)
    places = {}
    for row in rows:
        file = f"{row.name}.onnx"
        name = file if file in known else row.name
        if name in known and (kinds[name] == "onnx" or not alike):
            places[row.name] = known[name]
    return places


def _line(panel: Axes, x: float, name: str) -> None:
    """A model of which only speed and size are known."""
    panel.axvline(x, color="#7A7A7A", linestyle=":", linewidth=1)
    place = (x, 0.02)
    across = panel.get_xaxis_transform()
    panel.text(*place, name, fontsize=7, rotation=90, ha="right", va="bottom", transform=across)


def _name(panel: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes names beside points, higher where another one or its name is in the way."""
    scale = 72 / panel.figure.dpi
    places = [(name, x, y, scale * panel.transData.transform((x, y))) for name, x, y in points]
    taken = [(across - MARK, across + MARK, up) for *_, (across, up) in places]
    for name, x, y, (across, up) in sorted(places, key=lambda place: place[1:3]):
        start, end, bottom = across + MARK + 1, across + MARK + 1 + 4.2 * len(name), up + 3
        while any(start < b and end > a and abs(bottom - c) < LINE for a, b, c in taken):
            bottom += LINE
        taken.append((start, end, bottom))
        place: dict[str, Any] = {"xytext": (MARK + 1, bottom - up), "textcoords": "offset points"}
        panel.annotate(name, (x, y), fontsize=7, **place)


def curves(runs: Mapping[str, Sequence[dict[str, Any]]], main: str) -> Figure:
    """Training loss and validation score by epoch; many runs take several rows of panels.

    Args:
        runs: The rows of each run's `metrics.jsonl`, by its name.
    """
    from matplotlib.ticker import MaxNLocator

    count = max(1, math.ceil(len(runs) / MOST_RUNS))
    figure, axes = panels(2, rows=count)
    for number, (name, rows) in enumerate(runs.items()):
        colour, place = COLOURS[number % MOST_RUNS], 2 * (number // MOST_RUNS)
        for panel, key in zip(axes[place : place + 2], ("train/loss", f"val/{main}"), strict=True):
            points = [(epoch, row[key]) for epoch, row in enumerate(rows, 1) if key in row]
            if points:
                marker = "." if len(points) < 30 else None
                panel.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker)
    for loss, score in zip(axes[::2], axes[1::2], strict=True):
        loss.set_ylabel("training loss")
        loss.set_yscale("log")
        score.set_ylabel(f"{main} on validation, %")
        score.legend(fontsize=7, frameon=False)
        for panel in (loss, score):
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.grid(alpha=0.3)
    return figure


def rates(tests: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Loss against a learning rate that grows, and where it falls fastest, a line per run.

    Args:
        tests: By the name of a run, `lr` and `loss` of each step, and `suggested_lr`.
    """
    figure, (panel,) = panels(1, 6.0, 4.0)
    for number, (name, test) in enumerate(tests.items()):
        colour, suggested = COLOURS[number % len(COLOURS)], test["suggested_lr"]
        panel.plot(test["lr"], test["loss"], color=colour, label=f"{name}: try {suggested:.1e}")
        panel.axvline(suggested, linestyle="--", linewidth=1, color=colour)
    panel.set_xscale("log")
    panel.set_xlabel("learning rate")
    panel.set_ylabel("training loss, smoothed")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7, frameon=False)
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
            panel.set_xticks(range(len(names)), names, rotation=90, fontsize=7, parse_math=False)
            panel.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
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
        counts.stairs(np.bincount(place, minlength=BINS), edges, color=colour)
    lines.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    lines.set_xlabel("confidence")
    lines.set_ylabel("share that is right")
    lines.legend(fontsize=7, frameon=False)
    counts.set_xlabel("confidence")
    counts.set_ylabel("test images" if task.name == "single" else "labels of test images")
    return figure


def coverage(probs: Mapping[str, Probs], labels: Labels) -> Figure:
    """Accuracy of the images that are answered, if only the most confident ones are.

    Against the share of them that is, and both against the confidence that is asked for.
    """
    figure, (shares, thresholds) = panels(2)
    for number, (name, of) in enumerate(probs.items()):
        order = np.argsort(-of.max(axis=1), kind="stable")
        right = (of.argmax(axis=1) == labels)[order]
        answered = np.arange(1, len(right) + 1)
        few = max(1, len(right) // 50)  # of fewer than these, one error is all there is to see
        accuracy = (100.0 * np.cumsum(right) / answered)[few - 1 :]
        share, sure = (100.0 * answered / len(right))[few - 1 :], of.max(axis=1)[order][few - 1 :]
        colour = COLOURS[number % len(COLOURS)]
        shares.plot(share, accuracy, color=colour, label=name)
        thresholds.plot(sure, accuracy, color=colour, label="of these right" if not number else "")
        label = "answered" if not number else ""
        thresholds.plot(sure, share, "--", color=colour, label=label)
    shares.set_xlabel("answered, % of the test images")
    shares.set_ylabel("of these right, %")
    thresholds.set_xlabel("least confidence of an answer")
    thresholds.set_ylabel("% of the test images")
    for panel in (shares, thresholds):
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, frameon=False)
    return figure

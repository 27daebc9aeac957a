"""Pictures of how thresholds were chosen: a panel per label, or coverage against accuracy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.files import atomic
from distill.scoring.thresholds import Tuned, coverage_curve, threshold_curve

MOST_PANELS = 24  # more do not fit a page
COLUMNS = 4
LONGEST = 26  # characters of a label's name above its panel
# Okabe and Ito's colours, told apart by the colour-blind, and by their dashes without colour.
LINES: dict[str, dict[str, Any]] = {
    "precision": {"color": "#0072B2", "linestyle": (0, (5, 1.5)), "linewidth": 1.4},
    "recall": {"color": "#D55E00", "linestyle": (0, (1, 1)), "linewidth": 1.6},
    "f1": {"color": "black", "linestyle": "-", "linewidth": 1.8},
    "fpr": {"color": "#009E73", "linestyle": (0, (4, 1, 1, 1)), "linewidth": 1.6},
}
TITLES = {"precision": "precision", "recall": "recall", "f1": "F1", "fpr": "false positives"}
WANTED = {"color": "#666666", "linestyle": (0, (2, 2)), "linewidth": 1.0}


def draw_thresholds(
    probs: NDArray[np.floating[Any]], labels: NDArray[np.int64], tuned: Tuned, file: Path
) -> None:
    """Plots what every threshold would give on validation, and the ones chosen, as a PNG.

    Args:
        probs: `(n, num_classes)`.
        labels: `(n,)`, or `(n, num_classes)` of 0 and 1.
        tuned: The thresholds, of a rule other than `none`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if labels.ndim == 2:
        figure = _label_panels(pyplot, probs, labels, tuned)
    else:
        figure = _coverage_panels(pyplot, probs, labels, tuned.record)
    with atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def shown_labels(record: dict[str, Any], most: int = MOST_PANELS) -> list[str]:
    """Labels that get a panel: all or, where they are too many, those of the lowest F1."""
    rows = record["labels"]
    if len(rows) <= most:
        return list(rows)
    worst = set(sorted(rows, key=lambda name: rows[name].get("f1", math.inf))[:most])
    return [name for name in rows if name in worst]


def _label_panels(
    pyplot: Any, probs: NDArray[np.floating[Any]], labels: NDArray[np.int64], tuned: Tuned
) -> Any:
    names, shown = list(tuned.thresholds), shown_labels(tuned.record)
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    size = (max(5.0, 3.0 * columns), 2.5 * rows + 1.0)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    panels = grid.ravel()
    for number, axes in enumerate(panels):
        if number >= len(shown):
            axes.set_axis_off()
            continue
        index = names.index(shown[number])
        _label_panel(axes, shown[number], probs[:, index], labels[:, index] == 1, tuned.record)
        if number + columns >= len(shown):  # nothing below it
            axes.set_xlabel("threshold")
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("%")
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
    few = len(shown) < len(names)
    note = f", the {len(shown)} of {len(names)} labels with the lowest F1" if few else ""
    figure.suptitle(f"validation by threshold{note}", fontsize=11)
    return figure


def _label_panel(
    axes: Any,
    name: str,
    scores: NDArray[np.floating[Any]],
    truth: NDArray[np.bool_],
    record: dict[str, Any],
) -> None:
    """One label: its shares by threshold, and where it was cut."""
    row, rule, curve = record["labels"][name], record["rule"], threshold_curve(scores, truth)
    for key in ("precision", "recall", "f1", *(("fpr",) if rule == "fpr" else ())):
        _steps(axes, scores, getattr(curve, key), label=TITLES[key], **LINES[key])
    if rule == "fpr":
        axes.axhline(100 * record["max_fpr"], label="most allowed", **WANTED)
    axes.axvline(row["threshold"], color="#999999", linewidth=0.9, zorder=0)
    # Drawn outside of what is seen where the label has no such share, so as to be in the legend.
    mark = {"color": LINES[rule]["color"], "markeredgecolor": "white", "markersize": 8}
    axes.plot(row["threshold"], row.get(rule, -50), "o", label="chosen", linestyle="none", **mark)
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    axes.set_title(f"{short}\n{_point(row, rule)}", fontsize=9, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(-3, 103))
    axes.grid(alpha=0.25)


def _point(row: dict[str, Any], rule: str) -> str:
    """The chosen point of a label, in words."""
    if rule not in row:
        kind = "positives" if rule == "f1" else "negatives"
        return f"{row['threshold']:.3f} is kept: no {kind}"
    if rule == "f1":
        return f"at {row['threshold']:.3f}: F1 {row['f1']:.1f} %"
    recall = f"recall {row['recall']:.1f} %" if "recall" in row else "no positives"
    return f"at {row['threshold']:.3f}: FP {row['fpr']:.1f} %, {recall}"


def _steps(axes: Any, scores: NDArray[np.floating[Any]], values: Any, **style: Any) -> None:
    """A line that changes at the scores, which is where a threshold parts them otherwise."""
    edges = np.concatenate([[0.0], np.unique(scores.astype(np.float32)), [1.0]])
    axes.plot(edges, np.append(values, values[-1]), drawstyle="steps-post", **style)


def _coverage_panels(
    pyplot: Any, probs: NDArray[np.floating[Any]], labels: NDArray[np.int64], record: dict[str, Any]
) -> Any:
    curve, confidence = coverage_curve(probs, labels), probs.max(axis=1)
    min_accuracy, chosen, accuracy = record["min_accuracy"], record["threshold"], record["accuracy"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    left.plot(curve.coverage, curve.accuracy, marker=".", markersize=3, **LINES["f1"])
    sure = f"at least, {record['confidence']:g} % confident"
    left.plot(curve.coverage, curve.at_least, label=sure, **{**LINES["f1"], "linestyle": ":"})
    left.axhline(min_accuracy, label=f"wanted: {min_accuracy:g} %", **WANTED)
    text = (
        f"{accuracy:.2f} % of {record['answered']:,} right,\nanswering {record['coverage']:.1f} %"
    )
    mark = {"color": LINES["recall"]["color"], "markeredgecolor": "white", "markersize": 10}
    left.plot(record["coverage"], accuracy, "o", linestyle="none", label=text, **mark)
    lowest = min(min_accuracy, np.nanmin(curve.accuracy))
    room = max(1.0, 0.1 * (100.0 - lowest))
    left.set(xlabel="coverage: images answered, %", ylabel="accuracy of the answers, %")
    left.set(xlim=(0, 102), ylim=(lowest - 2 * room, 100.0 + 0.5 * room))
    _steps(right, confidence, curve.accuracy, label="accuracy", **LINES["precision"])
    _steps(right, confidence, curve.coverage, label="coverage", **LINES["fpr"])
    right.axvline(chosen, color="#999999", linewidth=1.2, zorder=0, label=f"chosen: {chosen:.3f}")
    right.set(xlabel="confidence threshold", ylabel="%", xlim=(0, 1), ylim=(-3, 103))
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(loc="lower left", fontsize=9)
    figure.suptitle("validation: coverage and accuracy of the answers", fontsize=11)
    return figure

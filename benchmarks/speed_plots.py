"""Results of the speed suite as plots: images/s by batch, accuracy against time and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from distill.benchmarks.speed_records import SpeedRow
from distill.files import atomic
from distill.report.results import ResultRow

# Okabe and Ito's colours, told apart by the colour-blind, and by their markers without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
MARKERS = "osD^vPX*<>"
SCORES = {"top1": "top-1 accuracy", "map": "mean average precision"}


@dataclass(frozen=True)
class Point:
    """A model that was asked with one image at a time, and its score.

    Attributes:
        score: In percent.
        of: The score's name and its split.
        engine: None for the shipped runtime.
    """

    name: str
    score: float
    of: tuple[str, str]
    latency_p50_ms: float
    size_bytes: int | None = None
    engine: str | None = None


def draw_all(rows: Sequence[SpeedRow], heading: str, stem: Path) -> list[Path]:
    """Draws what can be drawn of these rows, as `STEM.batch.png` and `STEM.accuracy.png`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    drawn = []
    batches = [row for row in rows if row.scenario == "offline" and row.clock == "model"]
    if len({row.batch_size for row in batches}) > 1:
        drawn.append(stem.with_name(f"{stem.name}.batch.png"))
        draw_batches(batches, heading, drawn[-1])
    scored = accuracy_points(rows)
    if scored:
        drawn.append(stem.with_name(f"{stem.name}.accuracy.png"))
        draw_accuracy(scored, heading, drawn[-1])
    return drawn


def draw_batches(rows: Sequence[SpeedRow], heading: str, file: Path) -> None:
    """Plots images per second against the batch size, a line per model and engine, as a PNG."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    names, engines = (dict.fromkeys(getattr(row, k) for row in rows) for k in ("name", "engine"))
    colours = dict(zip(names, cycle(COLOURS), strict=False))
    markers = dict(zip(engines, cycle(MARKERS), strict=False))
    for name, engine in dict.fromkeys((row.name, row.engine) for row in rows):
        line = [row for row in rows if (row.name, row.engine) == (name, engine)]
        line.sort(key=lambda row: row.batch_size)
        axes.plot(
            [row.batch_size for row in line],
            [row.images_per_s for row in line],
            color=colours[name],
            marker=markers[engine],
            label=f"{name}, {engine}",
        )
    sizes = sorted({row.batch_size for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    _round_ticks(pyplot, axes.yaxis)
    axes.set_xlabel("images in a batch")
    axes.set_ylabel("images/s")
    axes.grid(alpha=0.3)
    axes.set_title(heading, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    _save(pyplot, figure, file)


def accuracy_points(rows: Sequence[SpeedRow | ResultRow]) -> list[Point]:
    """Points of the rows of one image at a time that have a score.

    Rows of `results.json` have scores of `test`, those of a benchmark of `val`.
    """
    points = []
    for row in rows:
        if isinstance(row, ResultRow):
            scores, split, engine = row.test or {}, "test", None
        elif (row.scenario, row.clock) == ("single_stream", "model"):
            scores, split, engine = row.val or {}, "val", row.engine
        else:
            continue
        score = next((name for name in SCORES if name in scores), None)
        if score and row.latency_p50_ms is not None:
            found = (row.name, scores[score], (score, split), row.latency_p50_ms, row.size_bytes)
            points.append(Point(*found, engine))
    return points


def draw_accuracy(points: Sequence[Point], heading: str, file: Path) -> None:
    """Plots accuracy against latency and against size, a panel each, as a PNG.

    A model that was timed on several engines is drawn once, with the fastest.

    Args:
        points: What `accuracy_points` returns.
    """
    pyplot = _pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    slowest_first = sorted(points, key=lambda point: -point.latency_p50_ms)
    fastest = {point.name: point for point in slowest_first}
    names = dict.fromkeys(point.name for point in points)
    for axes, key, unit in zip(panels, ("latency_p50_ms", "size_bytes"), (1.0, 1e6), strict=True):
        for name, colour, marker in zip(names, cycle(COLOURS), cycle(MARKERS), strict=False):
            point = fastest[name]
            label = f"{name} ({point.engine})" if point.engine else name
            value = getattr(point, key)
            place = [] if value is None else [value / unit]
            style = {"s": 70, "color": colour, "marker": marker, "alpha": 0.85, "zorder": 3}
            axes.scatter(place, [point.score] * len(place), label=label, **style)
        axes.set_xscale("log")
        axes.margins(0.12)
        _round_ticks(pyplot, axes.xaxis)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    score, split = points[0].of
    panels[0].set_ylabel(f"{SCORES[score]}, {split} split, %")
    panels[0].set_xlabel("ms for one image, median")
    panels[1].set_xlabel("MB of the file")
    figure.suptitle(heading, fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    _save(pyplot, figure, file)


def _round_ticks(pyplot: Any, axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each decade, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(pyplot.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(pyplot: Any, figure: Any, file: Path) -> None:
    with atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)

"""Results of the training benchmark as a table on a terminal and as a plot."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from distill.benchmarks.training_run import TrainingBench
from distill.files import atomic

Document = dict[str, Any]  # what `bench_training` returns
# (ratio, engine, what it says, where we want it)
AIMS = (
    (
        "epoch_over_student_only",
        "cached",
        "a cached epoch over the student alone",
        "<= 1.1",
    ),
    ("total_over_cached", "kd_lib", "KD_Lib's whole run over the cached one", ">= 8"),
    ("total_over_cached", "timm", "timm's whole run over the cached one", ">= 4"),
)


def title(config: TrainingBench, num_images: int) -> str:
    """The conditions, in one line."""
    teacher = Path(config.teacher).name if config.has_trained_teacher else config.teacher
    weights = "" if config.has_trained_teacher else " (random weights)"
    return (
        f"{teacher}{weights} teaches {config.student.name}: {num_images:,} images of "
        f"{config.data.size} px, batch {config.train.batch_size}, {config.train.epochs} epochs, "
        f"{config.device}, rounds: {config.rounds}"
    )


def render(report: Document, heading: str) -> Table:
    """A row per engine; empty is not measured, `~` extrapolated from fewer epochs."""
    table = Table(title=heading, box=box.SIMPLE)
    table.add_column("engine")
    for name in ("s/epoch", "range", "images/s", "peak MB", "cache s", "total s", "x student"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("top1 %", justify="right", no_wrap=True)
    for row in report["rows"]:
        low, high = row.get("seconds_per_epoch_min"), row.get("seconds_per_epoch_max")
        about = "~" if row.get("extrapolated") else ""
        ratio, spread = _over_student(row, report), row.get("top1_std")
        cells = (
            row["engine"],
            f"{row['seconds_per_epoch']:.3f}",
            "" if low is None or high is None else f"{low:.3f}-{high:.3f}",
            f"{row['images_per_s']:,.0f}",
            f"{row['peak_memory_bytes'] / 1e6:,.0f}",
            f"{row['cache_seconds']:.2f}" if "cache_seconds" in row else "",
            f"{about}{row['total_seconds']:,.1f}",
            "" if ratio is None else f"{ratio:.2f}",
            f"{row['top1']:.2f}" + (f" ±{spread:.2f}" if spread is not None else "")
            if "top1" in row
            else "",
        )
        table.add_row(*map(Text, cells))
    return table


def ratio_lines(report: Document) -> list[str]:
    """The ratios that we aim at, a line each; none for what was not measured."""
    return [
        f"{what}: {report['ratios'][name][engine]:.2f} (aim {aim})"
        for name, engine, what, aim in AIMS
        if engine in report["ratios"][name]
    ]


def draw(report: Document, heading: str, file: Path) -> None:
    """Plots the seconds of a whole run, cache and training stacked, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = report["rows"]
    names = [row["engine"] for row in rows]
    cache = [row.get("cache_seconds", 0.0) for row in rows]
    rest = [row["total_seconds"] - seconds for row, seconds in zip(rows, cache, strict=True)]
    height = 1.6 + 0.45 * len(rows)
    figure, axes = pyplot.subplots(figsize=(8, height), layout="constrained")
    axes.barh(names, cache, color="tab:orange", label="building the cache")
    bars = axes.barh(names, rest, left=cache, color="tab:blue", label="training and validation")
    axes.bar_label(bars, labels=[_label(row, report) for row in rows], padding=4)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds of the whole run (in brackets: times the student alone)")
    axes.set_title(textwrap.fill(heading, 90), fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    with atomic(file) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def _label(row: dict[str, Any], report: Document) -> str:
    ratio = _over_student(row, report)
    about = "~" if row.get("extrapolated") else ""
    return f"{about}{row['total_seconds']:,.1f} s" + (f" ({ratio:.2f}x)" if ratio else "")


def _over_student(row: dict[str, Any], report: Document) -> float | None:
    ratio: float | None = report["ratios"]["total_over_student_only"].get(row["engine"])
    return ratio

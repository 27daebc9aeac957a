"""The parts of the page on images unlike those of the test split."""

from __future__ import annotations

from distill.pipeline.page.content import Content, cell
from distill.report.page import Section, Table

QUARTERS = ("nearest", "near", "far", "farthest")


def stress(content: Content) -> Section | None:
    """Scores of images that went through something."""
    found, main = content.results.robustness, content.task.main_score
    if found is None:
        return None
    rows = [
        [row["name"], row["strength"], cell(row[main], 2), f"{row[main] - found[main]:+.2f}"]
        for row in found["rows"]
    ]
    table = Table("Under stress", ["stress", "strength", f"{main} %", "points"], rows)
    text = f"{found['file']} has {found[main]:.2f} % on {found['n']:,} test images as they are. "
    text += "What it has of the same images after what cameras, messengers and crops do to them."
    return Section("stress", "Under stress", text, tables=[table])


def elsewhere(content: Content) -> Section | None:
    """Test images by their distance from training, and pictures from elsewhere."""
    distance, places = content.results.distance, content.results.elsewhere
    tables, lines = [], []
    if distance is not None:
        rows = [
            [
                name,
                f"{quarter['n']:,}",
                cell(quarter["accuracy"], 2),
                f"{quarter['low']:.2f} to {quarter['high']:.2f}",
                cell(quarter["ece"], 2),
            ]
            for name, quarter in zip(QUARTERS, distance["quarters"], strict=True)
        ]
        heads = ["quarter", "images", "accuracy %", "95 %", "ECE %"]
        tables.append(Table(f"{distance['file']} by distance from training", heads, rows))
    main = content.task.main_score
    for place in places:
        rows = [
            [row["name"], *(cell(row["test"].get(key), 2) for key in (main, "macro_f1", "ece"))]
            for row in place["rows"]
        ]
        heads = ["name", f"{main} %", "macro F1 %", "ECE %"]
        shipped = content.results.verdict.get("shipped")
        tables.append(Table(f"{place['location']}, {place['n']:,} images", heads, rows, shipped))
        if "farther_percent" in place:
            line = f"{place['location']}: {place['farther_percent']:.0f} % of the images are "
            lines.append(f"{line}farther away than three quarters of the test images")
    if not tables:
        return None
    text = "Pictures of other people are less like the training images than a test split of the "
    text += "same folder: nearness is that of features that come with the package."
    return Section("elsewhere", "How it will do elsewhere", text, tables=tables, lines=lines)

"""Results, evaluations and data summaries as tables on a terminal."""

from __future__ import annotations

import math
import re
import statistics
import sys
from collections.abc import Container, Iterable, Sequence
from typing import Any, Protocol, TextIO

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from distill.data.audit.findings import Finding
from distill.data.sources import SPLITS
from distill.report.results import ResultRow, Results
from distill.scoring.metrics_multi import THRESHOLD

BLANK = ""
WIDTH = 120  # columns where there is no terminal to ask
# Columns that a narrow terminal does without, the least important first.
LESSER = ("strategy", "F1 %", "images/s", "params", "agree %", "kind")
MOST_CLASSES = 12  # that recall is shown of
MOST_WRONG = 2  # other classes that a class is shown to be taken for


def console_of(stream: TextIO | None = None) -> Console:
    """A terminal, or a file or pipe that is wide enough for tables; stdout by default."""
    console = Console(file=stream)
    return Console(file=stream, width=None if console.is_terminal else WIDTH)


def show(table: Table, stream: TextIO | None = None) -> None:
    """Prints a table, to stdout by default."""
    console_of(stream).print(table)


def show_rows(results: Results, stream: TextIO | None = None) -> None:
    """Prints the table of results, without its lesser columns where the terminal is narrow."""
    console = console_of(stream)
    endless = console.options.update(width=sys.maxsize)
    for count in range(len(LESSER) + 1):
        table = results_table(results, LESSER[:count])
        if Measurement.get(console, endless, table).maximum <= console.width:
            break
    console.print(table)


def results_table(results: Results, without: Sequence[str] = ()) -> Table:
    """One line per row of `results.json`; what was not measured is blank.

    Args:
        without: Headers of columns to leave out, beside those that are all blank.
    """
    multi = any("map" in (row.test or {}) for row in results.rows)
    main, shown = ("map", "mAP %") if multi else ("top1", "top1 %")
    title = "test split; latency of one image"
    if teacher := results.verdict.get("teacher"):
        title += f"; agree: answers as {teacher} does"
    if multi:
        title += "; F1 of files with their thresholds, else at 0.5"
    names = {row.name for row in results.rows}
    rows = [(row, row.test or {}) for row in results.rows if not _is_repeated(row, names)]
    by_seed = [_by_seed(row, results.rows, main) for row, _ in rows]
    if any(len(scores) > 1 for scores in by_seed):
        title += f"; {shown} of several seeds is their mean"
    table = Table(title=title, box=box.SIMPLE)
    agreed = [row.agreement_labels if multi else row.agreement_top1 for row, _ in rows]
    columns: dict[str, list[str]] = {
        "name": [escape(row.name) for row, _ in rows],
        "kind": [row.kind for row, _ in rows],
        "strategy": [row.strategy or BLANK for row, _ in rows],
        "params": [_number(row.params, "{:,}") for row, _ in rows],
        "MB": [_number(row.size_bytes, "{:.2f}", 1e-6) for row, _ in rows],
        shown: [_number(_mean(scores), "{:.2f}") for scores in by_seed],
        "± of seeds": [_number(_deviation(scores), "{:.2f}") for scores in by_seed],
        "F1 %": [_number(test.get("macro_f1"), "{:.2f}") for _, test in rows],
        "agree %": [_number(share, "{:.2f}") for share in agreed],
        "p50 ms": [_number(row.latency_p50_ms, "{:.3f}") for row, _ in rows],
        "images/s": [_number(row.images_per_s, "{:,.0f}") for row, _ in rows],
    }
    kept = {key: cells for key, cells in columns.items() if any(cells) and key not in without}
    for header in kept:
        justify: JustifyMethod = "left" if header in ("name", "kind", "strategy") else "right"
        table.add_column(header, justify=justify, overflow="fold")
    for cells in zip(*kept.values(), strict=True):
        table.add_row(*cells)
    return table


def _is_repeated(row: ResultRow, names: Container[str]) -> bool:
    """Whether it is a run of the table with another seed: `NAME-seed1` beside `NAME`."""
    return _first(row) != row.name and _first(row) in names


def _first(row: ResultRow) -> str:
    """The name of the same run with the first seed."""
    return re.sub(rf"-seed{row.seed}(?=-self$|$)", "", row.name)


def _by_seed(first: ResultRow, rows: Sequence[ResultRow], main: str) -> list[float]:
    """A score of a run and of the same with other seeds."""
    same = [row for row in rows if first.name in (row.name, _first(row))]
    return [row.test[main] for row in same if row.test and main in row.test]


def _mean(scores: Sequence[float]) -> float | None:
    return statistics.fmean(scores) if scores else None


def _deviation(scores: Sequence[float]) -> float | None:
    return statistics.stdev(scores) if len(scores) > 1 else None


def recall_table(results: Results) -> Table | None:
    """Each class's recall by the teacher, by what is shipped and by the control, worst first.

    None where nothing was exported.
    """
    shown = {
        row.name: row.test["per_class_recall"]
        for row in results.rows
        if row.test
        and (
            (row.kind == "control" and row.params is None)
            or row.name in (results.verdict.get("teacher"), results.verdict.get("shipped"))
        )
    }
    shipped = shown.get(results.verdict.get("shipped", ""))
    if shipped is None:
        return None
    table = Table(title="recall of each class, %", box=box.SIMPLE)
    table.add_column("class", overflow="fold")
    for name in shown:
        table.add_column(escape(name), justify="right")
    worst = sorted(shipped, key=lambda name: shipped[name])
    for name in worst[:MOST_CLASSES]:
        table.add_row(escape(name), *(_number(of.get(name), "{:.2f}") for of in shown.values()))
    if len(worst) > MOST_CLASSES:
        table.add_row(f"and {len(worst) - MOST_CLASSES} better ones")
    return table


def verdict_line(verdict: dict[str, Any]) -> str:
    """What is shipped and how it compares, in one line."""
    if "shipped" not in verdict:
        return "nothing was exported"
    main, unit = ("map", "% mAP") if "map" in verdict else ("top1", "%")
    parts = [f"{verdict['shipped']}: {verdict[main]:.2f} {unit} on test"]
    if "teacher" in verdict:
        parts.append(f"{verdict[f'{main}_minus_teacher']:+.2f} points to {verdict['teacher']}")
        parts.append(f"{100 * verdict['params_share']:.1f} % of its parameters")
    speeds = verdict.get("times_as_fast_as", {})
    parts += [f"{ratio:.1f} times as fast as {name}" for name, ratio in speeds.items()]
    return ", ".join(parts)


WORDS = {  # of a verdict on files, which nobody asks whether they help
    "helps": "better",
    "hurts": "worse",
    "no effect": "as good",
    "inconclusive": "not decided",
}


def main_questions(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that a terminal has room for: on students, and on the file that ships."""
    asked, ships = verdict.get("questions", ()), f"{verdict.get('shipped')} over "
    return [
        q for q in asked if q["question"].startswith(ships) or ".onnx over " not in q["question"]
    ]


def question_lines(questions: Iterable[dict[str, Any]]) -> list[str]:
    """Questions with their word, figures and, where one is open, what would decide it."""
    lines = []
    for asked in questions:
        low, high = asked["interval_points"]
        word = WORDS[asked["word"]] if ".onnx over " in asked["question"] else asked["word"]
        line = f"{asked['question']}: {word}, {asked['difference_points']:+.2f} points "
        line += "of mAP " if asked.get("unit") == "map" else ""
        line += f"({low:+.2f} to {high:+.2f}) on {asked['test_images']:,} images"
        if asked["groups"] < asked["test_images"]:
            line += f" in {asked['groups']:,} groups"
        if asked["seeds"] > 1:
            line += f", {asked['seeds']} pairs of seeds"
        if asked["word"] == "inconclusive":
            line += f"; {_needed(asked.get('needs', {}))}"
        lines.append(line)
    return lines


def _needed(needs: dict[str, int]) -> str:
    known = (("images", "test images"), ("seeds", "pairs of seeds"))
    parts = [f"{needs[key]:,} {words}" for key, words in known if key in needs]
    return f"about {' or '.join(parts)} would decide" if parts else "nothing at hand would decide"


class Counted(Protocol):
    """What `data_table` asks of a data set."""

    @property
    def location(self) -> str:
        """Where the images are."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    def class_counts(self, split: str) -> list[int]:
        """Images of each class."""

    def num_images(self, split: str) -> int:
        """Images of all classes or of none."""


def data_table(data: Counted) -> Table:
    """Images per class and split."""
    table = Table(title=escape(data.location), box=box.SIMPLE)
    table.add_column("class")
    for split in SPLITS:
        table.add_column(split, justify="right")
    counts = {split: data.class_counts(split) for split in SPLITS}
    for label, name in enumerate(data.classes):
        table.add_row(escape(name), *(f"{counts[split][label]:,}" for split in SPLITS))
    table.add_section()
    table.add_row("all", *(f"{data.num_images(split):,}" for split in SPLITS))
    return table


def finding_lines(findings: Sequence[Finding], most: int = 10) -> list[str]:
    """Findings as lines, the first `most` of each kind, then a count of the rest."""
    lines, shown = [], dict.fromkeys((finding.kind for finding in findings), 0)
    for finding in findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= most:
            paths = finding.paths
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            where = f" {', '.join(paths[:3])}{more}" if paths else ""
            lines.append(f"{finding.severity}: {finding.kind}{where}: {finding.detail}")
    lines += [f"{kind}: {count} in all" for kind, count in shown.items() if count > most]
    return lines


def confusion_table(scores: dict[str, Any]) -> Table:
    """Confusion matrix with the recall of each class; of many classes the worst."""
    names = scores["confusion"]["names"]
    if len(names) > MOST_CLASSES:
        return worst_classes(scores)
    table = Table(title="rows: true class, columns: predicted", box=box.SIMPLE)
    table.add_column("")
    for name in (*names, "recall %"):
        table.add_column(escape(name), justify="right")
    recall = scores["per_class_recall"]
    for name, counts in zip(names, scores["confusion"]["rows_true_columns_predicted"], strict=True):
        numbers = (f"{c:,}" for c in counts)
        table.add_row(escape(name), *numbers, _number(recall.get(name), "{:.2f}"))
    return table


def worst_classes(scores: dict[str, Any]) -> Table:
    """The classes of lowest recall, and what most of their missed images are taken for."""
    names, recall = scores["confusion"]["names"], scores["per_class_recall"]
    rows = dict(zip(names, scores["confusion"]["rows_true_columns_predicted"], strict=True))
    known = sorted((name for name in names if name in recall), key=lambda name: recall[name])
    title = f"worst {min(MOST_CLASSES, len(known))} of {len(names)} classes (all: --json)"
    table = Table(title=title, box=box.SIMPLE)
    for name in ("class", "images", "recall %", "taken for"):
        table.add_column(name, justify="left" if name in ("class", "taken for") else "right")
    for name in known[:MOST_CLASSES]:
        counts = rows[name]
        wrong = {other: count for other, count in zip(names, counts, strict=True) if other != name}
        most = sorted(wrong, key=lambda other: -wrong[other])[:MOST_WRONG]
        taken = ", ".join(f"{other} {wrong[other]:,}" for other in most if wrong[other])
        table.add_row(escape(name), f"{sum(counts):,}", f"{recall[name]:.2f}", escape(taken))
    return table


def label_table(scores: dict[str, Any]) -> Table:
    """Scores of each label where labels are many, or the worst; a share of nothing is blank."""
    labels, title = list(scores["positives"]), "each label"
    if len(labels) > MOST_CLASSES:
        precision = scores["per_label_ap"]
        labels = sorted(labels, key=lambda label: precision.get(label, math.inf))[:MOST_CLASSES]
        title = f"worst {MOST_CLASSES} of {len(scores['positives'])} labels (all: --json)"
    table = Table(title=title, box=box.SIMPLE)
    for name in ("label", "images", "AP %", "precision %", "recall %", "threshold"):
        table.add_column(name, justify="left" if name == "label" else "right")
    shares = ("per_label_ap", "per_class_precision", "per_class_recall")
    thresholds = scores.get("thresholds", {})
    for name in labels:
        count = scores["positives"][name]
        cells = [_number(scores[share].get(name), "{:.2f}") for share in shares]
        threshold = f"{thresholds.get(name, THRESHOLD):.3f}"
        table.add_row(escape(name), f"{count:,}", *cells, threshold)
    return table


def scores_line(scores: dict[str, Any]) -> str:
    """What `distill evaluate` found, in one line."""
    named = {
        "top1": "top1",
        "map": "mAP",
        "macro_f1": "macro F1",
        "micro_f1": "micro F1",
        "exact_match": "exact match",
        "hamming": "wrong cells",
        "ece": "ECE",
    }
    parts = [f"{name} {scores[key]:.2f} %" for key, name in named.items() if key in scores]
    line = f"{', '.join(parts)}, nll {scores['nll']:.4f} on {scores['n']:,} images"
    if "answered" in scores:
        answered = scores["answered"]
        right = f", {answered['accuracy']:.2f} % of them right" if "accuracy" in answered else ""
        line += f"; answered {answered['coverage']:.2f} %{right}"
    return line


def _number(value: float | None, form: str, factor: float = 1) -> str:
    return BLANK if value is None else form.format(value * factor if factor != 1 else value)

"""The parts of the page that show scores and speeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.pipeline.bench import times_of
from distill.pipeline.page.answers import Answers
from distill.pipeline.page.content import Content, cell
from distill.report import plots
from distill.report.page import Plot, Section, Table, plot_of
from distill.report.results import ResultRow
from distill.scoring.tasks import SINGLE

MOST_CLASSES = 100  # rows of the table of classes
MOST_WRONG = 2  # other classes that a class is shown to be taken for
MACHINE = (
    *("cpu", "cores_usable", "torch_threads", "cpu_flags", "cpu_busy_percent", "gpu"),
    *("memory_bytes", "platform"),
)
LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "torch", "openvino", "tensorrt")


def results_table(content: Content) -> Table:
    """The one table: a row per model."""
    main = content.task.main_score

    def scored(key: str) -> Callable[[ResultRow], str]:
        return lambda row: cell((row.test or {}).get(key), 2)

    columns: dict[str, Callable[[ResultRow], str]] = {
        f"{main} %": scored(main),
        "macro F1 %": scored("macro_f1"),
        "ECE %": scored("ece"),
        "agrees %": lambda row: cell(getattr(row, content.task.agreement_key), 2),
        "KL": lambda row: cell(row.kl_teacher, 3),
        "p50 ms": lambda row: cell(row.latency_p50_ms, 3),
        "images/s": lambda row: pace(row.images_per_s),
        "MB": lambda row: cell(row.size_bytes and row.size_bytes / 1e6, 2),
        "parameters": lambda row: cell(row.params, 0),
    }
    rows = [
        [row.name, row.kind, row.strategy or "", *(of(row) for of in columns.values())]
        for row in content.results.rows
    ]
    heads = ["name", "kind", "strategy", *columns]
    return Table("Results", *measured(heads, rows), content.results.verdict.get("shipped"))


def measured(
    heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that are blank throughout."""
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in rows]


def pace(images_per_s: float | None) -> str:
    """Images per second: whole ones, of many."""
    return cell(images_per_s, 0 if images_per_s is None or images_per_s >= 10 else 2)


def questions(content: Content) -> Section | None:
    """Every difference that was judged."""
    asked = content.results.verdict.get("questions", ())
    rows = [
        [
            question["question"],
            question["word"],
            f"{question['difference_points']:+.2f}",
            " to ".join(f"{end:+.2f}" for end in question["interval_points"]),
            f"{question['test_images']:,} in {question['groups']:,}",
            f"{question['seeds']}",
            cell(question.get("discordant_percent"), 1),
            f"{question.get('p_holm', question['p']):.2g}",
        ]
        for question in asked
    ]
    heads = ["question", "word", "points", "95 %", "images in groups", "seeds", "differ %", "p"]
    score = "accuracy" if content.task is SINGLE else "mean average precision"
    text = f"Differences of {score} on the test split; intervals over groups of images (copies "
    text += "are one) and over seeds. No effect: the interval lies within the margin."
    table = Table("Questions", heads, rows)
    return Section("questions", "Questions", text, tables=[table]) if asked else None


def trade(content: Content) -> Section | None:
    """Accuracy against what it costs."""
    figure = plots.results(content.results.rows, content.task.main_score)
    alt = "Accuracy of each model against its latency and its size; the table has the figures."
    made = content.plot("results", figure, alt)
    text = "Networks that were timed with random weights have no accuracy: they are dotted lines."
    opponents = content.experiment.recipe.bench.opponents
    title = "Accuracy against latency and size"
    return Section("trade", title, text if opponents else "", plots=made) if made else None


def classes(content: Content) -> Section:
    """Each class: how often it is found, and what it is taken for."""
    data, tests = content.data, {r.name: r.test for r in content.results.rows if r.test}
    made: list[Plot] = []
    if content.task is SINGLE and content.shown:
        figure = plots.confusion(content.shown, data.test.labels, data.classes)
        alt = "Confusion matrices; the table below has each class's recall."
        made = content.plot("confusion", figure, alt)
    counts = data.class_counts("test")
    recall = {name: tests[name]["per_class_recall"] for name in content.shown if name in tests}
    answers, more = content.answers, list[str]()
    own: list[Sequence[str]] = [()] * len(counts)
    if answers is not None:
        own, more = _of_each_class(answers), OWN[content.task.name]
    lowest = [
        min((found.get(name, 100.0) for found in recall.values()), default=0.0)
        for name in data.classes
    ]
    order = np.argsort(lowest, kind="stable")
    rows = [
        [
            data.classes[i],
            f"{counts[i]:,}",
            *(cell(found.get(data.classes[i]), 1) for found in recall.values()),
            *own[i],
        ]
        for i in order[:MOST_CLASSES]
    ]
    heads = ["class", "test images", *(f"recall of {name}, %" for name in recall), *more]
    left = len(order) - MOST_CLASSES
    text = "The class of the lowest recall first."
    text += f" Precision and what follows are of {answers.file.name}." if answers else ""
    text += f" {left:,} more are in results.json." if left > 0 else ""
    table = Table("Each class", heads, rows)
    return Section("classes", "Class by class", text, made, [table])


OWN = {
    "single": ["precision, %", "F1, %", "taken for"],
    "multi": ["precision, %", "F1, %", "threshold"],
}


def _of_each_class(answers: Answers) -> list[Sequence[str]]:
    """What `OWN` names, of each class."""
    truth, given = answers.truth.astype(np.int64), answers.given.astype(np.int64)
    counts = truth.T @ given  # rows true, columns given
    hits, actual, predicted = np.diag(counts), truth.sum(axis=0), given.sum(axis=0)
    rows: list[Sequence[str]] = []
    for i in range(len(hits)):
        precision = 100.0 * hits[i] / predicted[i] if predicted[i] else None
        f1 = 200.0 * hits[i] / (actual[i] + predicted[i]) if actual[i] else None
        if answers.task is SINGLE:
            last = _taken_for(counts[i], i, answers.data.classes)
        else:
            last = cell(float(answers.predictor.thresholds[i]), 3)
        rows.append([cell(precision, 1), cell(f1, 1), last])
    return rows


def _taken_for(counts: Any, own: int, names: Sequence[str]) -> str:
    most = sorted((int(i) for i in np.flatnonzero(counts) if i != own), key=lambda i: -counts[i])
    return ", ".join(f"{names[i]} {counts[i]:,}" for i in most[:MOST_WRONG])


def confidence(content: Content) -> Section | None:
    """Reliability, and what is gained by answering only when sure."""
    if not content.shown:
        return None
    labels, task = content.data.test.labels, content.task
    alt = "Share of right answers over confidence; ECE in the table above is their distance."
    figure = plots.reliability(content.shown, content.truth, task)
    made = content.plot("reliability", figure, alt)
    if task is SINGLE:
        alt = "Accuracy of the answers, and their share, if only the most confident are given."
        made += content.plot("coverage", plots.coverage(content.shown, labels), alt)
    text = "Whether answers are as often right as they are sure, and what is gained by giving "
    text += "only those that are."
    if content.answers and (by := content.answers.predictor.metadata.get("temperature", 1.0)) != 1:
        text += f" The files divide their logits by {by:.2f}, which validation gave."
    thresholds = content.experiment.out / "plots" / "thresholds.png"
    if thresholds.is_file():
        made.append(plot_of(thresholds, "What thresholds would give on validation."))
    return Section("confidence", "Confidence", text, made)


def speed(content: Content) -> Section | None:
    """What was timed, and on what."""
    if (bench := times_of(content.experiment.out)) is None:
        return None
    rows = [
        [
            row["name"],
            row["engine"],
            row.get("scenario", "single_stream"),
            row["clock"],
            f"{row['batch_size']:,}",
            *(cell(row.get(key), 3) for key in ("latency_p50_ms", "latency_p99_ms")),
            pace(row.get("images_per_s")),
        ]
        for row in bench["rows"]
    ]
    heads = ["model", "engine", "scenario", "clock", "batch", "p50 ms", "p99 ms", "images/s"]
    text = f"Measured on: {machine_words(dict(bench['env']))}."
    return Section("speed", "Speed", text, tables=[Table("Speed", *measured(heads, rows))])


def machine_words(env: dict[str, Any]) -> str:
    """A machine and its libraries in one line."""
    known = {key: env[key] for key in MACHINE if env.get(key) is not None}
    if "memory_bytes" in known:
        known["memory_bytes"] = f"{known['memory_bytes'] / 2**30:.1f} GiB"
    if "cpu_flags" in known:
        known["cpu_flags"] = ", ".join(known["cpu_flags"])
    said = [f"{key.removesuffix('_bytes').replace('_', ' ')} {v}" for key, v in known.items()]
    versions = env.get("versions", {})
    return "; ".join([*said, *(f"{key} {versions[key]}" for key in LIBRARIES if key in versions)])

"""What `distill evaluate` prints of few classes and of many."""

import io

import numpy as np
from rich.console import Console
from rich.table import Table

from distill.report.table import confusion_table, label_table


def printed(table: Table, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def scores_of(count: int) -> dict:
    """Each class has 10 images; class k has min(k, 10) right, the rest taken for the next class."""
    names = [f"class {number:03d}" for number in range(count)]
    rows = np.zeros((count, count), int)
    for number in range(count):
        rows[number, number] = min(number, 10)
        rows[number, (number + 1) % count] += 10 - min(number, 10)
    return {
        "confusion": {"names": names, "rows_true_columns_predicted": rows.tolist()},
        "per_class_recall": {n: 10.0 * min(k, 10) for k, n in enumerate(names)},
    }


def test_few_classes_are_a_matrix() -> None:
    text = printed(confusion_table(scores_of(4)), 120)
    assert "predicted" in text
    assert "class 003" in text


def test_of_many_the_worst_come_first_and_what_they_are_taken_for() -> None:
    """From 20 classes on nobody could read it, at 400 it was blank."""
    for count in (20, 400):
        text = printed(confusion_table(scores_of(count)))
        lines = [line for line in text.splitlines() if "class 0" in line]
        assert len(lines) == 12
        assert f"worst 12 of {count} classes" in text
        assert lines[0].split() == ["class", "000", "10", "0.00", "class", "001", "10"]
        assert "class 004 7" in lines[3]
        assert max(map(len, text.splitlines())) <= 80


def test_of_many_labels_the_worst_come_first() -> None:
    names = [f"label {number}" for number in range(40)]
    shares = {name: float(number) for number, name in enumerate(names)}
    scores = {"positives": dict.fromkeys(names, 5), "per_label_ap": shares}
    scores |= {"per_class_precision": shares, "per_class_recall": shares}
    lines = [line.split() for line in printed(label_table(scores)).splitlines() if "0.500" in line]
    assert [line[1] for line in lines] == [str(number) for number in range(12)]

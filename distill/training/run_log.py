"""What is kept of a run's epochs: `metrics.jsonl`, the same as a table, and what trackers get."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from typing import Any, Self

from distill.files import append_line, atomic, sync
from distill.training.job import Job
from distill.training.run_directory import ROWS, TABLE
from distill.training.tracking import Trackers

Row = dict[str, Any]


class RunLog:
    """The rows of a run, one per epoch; a context manager, in which its trackers are open.

    Args:
        job: The run. The rows that `metrics.jsonl` has are those of its epochs so far.
        say: Is told of trackers that failed.
    """

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        self._lines, self._table = job.folder / ROWS, job.folder / TABLE
        lines = self._lines.read_text("utf-8").splitlines() if self._lines.is_file() else []
        self._rows: list[Row] = [json.loads(line) for line in lines]
        self._columns: list[str] = []
        self._write_table()
        self._trackers = Trackers(job.tracking, job.folder, job.options, say)

    def append(self, row: Row) -> None:
        """Puts an epoch's row into the files."""
        append_line(self._lines, row)
        self._rows.append(row)
        if row.keys() <= set(self._columns):
            with self._table.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)
            sync(self._table)
        else:  # the first one, or the first one that was validated
            self._write_table()

    def tell(self) -> None:
        """Tells the trackers of the last row, once nothing can undo that epoch any more."""
        self._trackers.log(self._rows[-1])

    def _write_table(self) -> None:
        self._columns = list(dict.fromkeys(key for row in self._rows for key in row))
        with (
            atomic(self._table) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            if self._columns:
                writer.writeheader()
            writer.writerows(self._rows)

    def __enter__(self) -> Self:
        self._trackers.__enter__()
        self._trackers.begin(self._rows)
        return self

    def __exit__(self, *error: Any) -> None:
        self._trackers.__exit__(*error)

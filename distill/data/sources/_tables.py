"""Gets the cells of a manifest out of a file (CSV, Parquet, JSON lines); what they mean is not
decided here, but for classes that have a column each.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from distill.data.sources._manifest import (
    COLUMNS,
    IDS,
    ROOT_KEY,
    ROOT_MARK,
    SEPARATOR,
    SEPARATOR_MARK,
    SOURCE_KEY,
    Table,
    seems_joined,
)
from distill.errors import UserError
from distill.storage import is_remote, reached, read_place

PARQUET, JSON_LINES = ".parquet", ".jsonl"
SHOWN = 8  # column names that a message lists at most
CLASS = "class "  # before the name of a column that may be of a class
YES, NO = {"1", "1.0", "true"}, {"0", "0.0", "-1", "-1.0", "false"}  # what is in such columns


class NoColumnError(UserError):
    """A table without paths or labels."""


def read_table(file: Path, labelled: bool) -> Table:
    """The rows of a manifest, CSV unless its ending is `.parquet` or `.jsonl`.

    A CSV is UTF-8 with or without a byte order mark; cells are separated by `,`, `;` or tabs,
    whichever gives a path and a label column, and may be quoted. Rows without any content are
    passed over. Where no column is of labels, classes may have a column each, of 0 and 1.

    Args:
        labelled: There has to be a column of labels; otherwise it is passed over.

    Raises:
        UserError: Not such a file, no rows, columns missing or there twice, ragged rows.
    """
    readers = {PARQUET: _read_parquet, JSON_LINES: _read_json_lines}
    table = readers.get(file.suffix.lower(), _read_csv)(file, labelled)
    if not table.numbers:
        raise UserError("no rows", str(file), "list the images, one per row")
    if not labelled:
        table.columns.pop("label", None)
        return table
    return _warned(table)


def _warned(table: Table) -> Table:
    """The table, with a note where its labels seem to be several in one."""
    labels = set(table.cells("label"))
    if table.separator != SEPARATOR:
        if not any(table.separator in label.strip() for label in labels):
            note = f"{table.file.name}: no label has the separator {table.separator!r} in it"
            return replace(table, notes=(*table.notes, note))
        return table
    if any(SEPARATOR in label for label in labels):
        return table
    mark = seems_joined(labels)
    if mark is None:
        return table
    example = min(label for label in labels if mark in label.strip())
    line = f"{SEPARATOR_MARK} {mark}".rstrip()
    is_csv = table.file.suffix.lower() not in (PARQUET, JSON_LINES)
    how = f"write {line!r} above the first line" if is_csv else "store lists of texts"
    note = f"{table.file.name}: {example!r} is taken for one label; if it is several, {how}"
    return replace(table, notes=(*table.notes, note))


def lists_labels(file: Path) -> bool:
    """Whether a file has columns of paths and labels.

    Raises:
        UserError: It has, but something else is wrong with it.
    """
    try:
        read_table(file, labelled=True)
    except NoColumnError:
        return False
    return True


def lists_paths(file: Path) -> bool:
    """Whether a Parquet file has a column of paths and none of pictures; False if unreadable."""
    if not file.is_file():
        return False
    try:
        schema = _schema(file)
    except UserError:
        return False
    kinds = {field.name.lower(): field.type for field in schema}
    pictures = [kinds[name] for name in ("image", "img") if name in kinds]
    if not all(map(_is_text, pictures)):
        return False
    labelled = any(name in kinds for name in COLUMNS["label"])
    paths = (*COLUMNS["path"], *(IDS if labelled else ()))
    return any(name in kinds and _is_text(kinds[name]) for name in paths)


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """The file as pyarrow reads it; of one behind an address, no more than is asked for.

    Raises:
        UserError: It is broken, or as `storage.reached` says.
    """
    from pyarrow import parquet

    if not is_remote(path):
        with _readable(path), parquet.ParquetFile(path) as file:
            yield file
        return
    with (
        reached(path),
        _readable(path),
        cast(Any, path).open("rb", cache_type="none") as opened,
        parquet.ParquetFile(opened, pre_buffer=True) as file,
    ):
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a broken or vanished file into an error that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        if is_remote(path) and not isinstance(error, pyarrow.ArrowException):
            raise
        what = f"not readable as Parquet: {str(error).partition(chr(10))[0]}"
        raise UserError(what, str(path), "fetch it again") from error


def _read_csv(file: Path, labelled: bool) -> Table:
    text, separator = _marked_separator(_text(file))
    failed: UserError | None = None
    for delimiter in ",;\t":
        records = _records(text, delimiter, file)
        try:
            root, names = _header(records, file)
        except UserError as error:  # such as quotes that another delimiter makes sense of
            failed = failed or error
            continue
        try:
            places = _find_columns(names, file, labelled)
            table = _csv_table(file, places, names, records, root)
            if any(name.startswith(CLASS) for name in places):
                return _of_classes(table, names)
            return _of_lists(table) or replace(table, separator=separator)
        except UserError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _marked_separator(text: str) -> tuple[str, str]:
    """The text without its first line, if that names what stands between labels, and what does."""
    found = re.match(rf"(?:{ROOT_MARK}[^\n]*\n)?({SEPARATOR_MARK}([^\r\n]*))", text)
    if found is None:
        return text, SEPARATOR
    mark = found[2].strip().strip('"').strip() or " "
    if len(set(mark)) == 1:  # a spreadsheet ends every line with as many of them
        mark = mark[0]
    return text[: found.start(1)] + text[found.end(1) :], mark


def _of_lists(table: Table) -> Table | None:
    """The table with what is in cells such as `['hat', 'scarf']`; None of other cells."""
    cells = table.columns.get("label", [])
    filled = [cell.strip() for cell in cells if cell.strip()]
    if not filled or not all(cell[0] == "[" and cell[-1] == "]" for cell in filled):
        return None
    known = {}
    for index, cell in enumerate(cells):
        if cell not in known:
            try:
                value = ast.literal_eval(cell.strip()) if cell.strip() else []
                known[cell] = _joined([str(label) for label in value], table.file)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                what = f"{cell[:80]!r} is no list"
                raise table.wrong(index, what, "write ['hat', 'scarf']") from None
    return replace(table, columns={**table.columns, "label": [known[cell] for cell in cells]})


def _text(file: Path) -> str:
    try:
        content = read_place(file)
    except OSError as error:
        hint = "name a file that you may read"
        raise UserError(f"cannot read: {error.strerror}", str(file), hint) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8; in a spreadsheet, as 'CSV UTF-8'"
        raise UserError(f"line {line}: not UTF-8", str(file), hint) from None


def _records(text: str, delimiter: str, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with any content, and the line that each begins in."""
    line = 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        what = f"line {line}: not readable as CSV: {error}"
        raise UserError(
            what, str(file), "close its quotes, and double those inside a cell"
        ) from None


def _header(
    records: Iterator[tuple[int, list[str]]], file: Path
) -> tuple[str | None, Sequence[str]]:
    """The root, if the file names one, and the names of the columns."""
    root, (_, names) = None, next(records, (0, [""]))
    if names[0].startswith(ROOT_MARK):
        root = names[0].removeprefix(ROOT_MARK).strip()
        _, names = next(records, (0, [""]))
    if not any(names):
        raise UserError("no columns", str(file), "name them in its first line: path,label")
    return root, names


def _csv_table(
    file: Path,
    places: dict[str, int],
    names: Sequence[str],
    records: Iterator[tuple[int, list[str]]],
    root: str | None,
) -> Table:
    columns: dict[str, list[str]] = {column: [] for column in places}
    numbers = []
    for line, cells in records:
        if len(cells) != len(names):
            what = f"line {line}: {len(cells)} cells where the header has {len(names)}"
            raise UserError(what, str(file), "quote cells that hold the delimiter")
        numbers.append(line)
        for column, place in places.items():
            columns[column].append(cells[place])
    return Table(file, columns, numbers, "line", root)


def _find_columns(names: Sequence[str], file: Path, labelled: bool) -> dict[str, int]:
    """Where our columns are; our own name of one comes before the names others give it.

    Without one of labels, the columns that are not ours may be of a class each.

    Raises:
        UserError: One that has to be there is not, or two could be the same.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name.strip().lower(), []).append(place)
    columns = {}
    for column, known in COLUMNS.items():
        matching = [(name, place) for name in known for place in places.get(name, ())]
        own = [(name, place) for name, place in matching if name == column] or matching
        if len(own) > 1:
            what = f"columns {own[0][0]!r} and {own[1][0]!r} could both be the {column}"
            raise UserError(what, str(file), f"name one of them {column}, and the other otherwise")
        if own:
            columns[column] = own[0][1]
    for name in IDS:
        if name in places:
            columns.setdefault("path", places[name][0])
    ours = set(columns.values())
    free = Counter(name.strip() for i, name in enumerate(names) if i not in ours)
    others = {
        f"{CLASS}{name.strip()}": i
        for i, name in enumerate(names)
        if i not in ours and free[name.strip()] == 1
    }
    lacking = [column for column in ("path", "label") if column not in columns]
    if "path" in lacking or (labelled and lacking and len(others) < 2):
        raise _no_column(lacking if labelled else ["path"], names, file)
    return {**columns, **others} if labelled and lacking else columns


def _of_classes(table: Table, names: Sequence[str]) -> Table:
    """The table, its labels being the classes whose columns say yes, where it has such columns.

    Raises:
        UserError: They say something else, so that there are no labels.
    """
    classes = {name: name.removeprefix(CLASS) for name in table.columns if name.startswith(CLASS)}
    if not classes:
        return table
    said = {n: [cell.strip().lower() for cell in table.columns[n]] for n in classes}
    answers = {name: cells for name, cells in said.items() if set(cells) <= YES | NO}
    has_yes = any(cell in YES for cells in answers.values() for cell in cells)
    if len(answers) < 2 or not has_yes or any(SEPARATOR in name for name in answers):
        raise _no_column(["label"], names, table.file)
    labels, columns = [classes[name] for name in answers], list(answers.values())
    cells = [
        SEPARATOR.join(label for label, cell in zip(labels, row, strict=True) if cell in YES)
        for row in zip(*columns, strict=True)
    ]
    kept = {name: column for name, column in table.columns.items() if name not in classes}
    note = f"{table.file.name}: its classes are its columns {_some(labels)}, of 0 and 1"
    return replace(table, columns={**kept, "label": cells}, notes=(*table.notes, note))


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name[:40]) for name in names[:SHOWN]) + rest


def _no_column(lacking: Sequence[str], names: Sequence[str], file: Path) -> NoColumnError:
    hints = [f"the {name} column can be called {', '.join(COLUMNS[name])}" for name in lacking]
    what = f"no {' and no '.join(lacking)} column among {_some(names)}"
    hints += ["or classes have a column each, of 0 and 1"] if lacking == ["label"] else []
    return NoColumnError(what, str(file), "; ".join(hints))


def _schema(file: Path) -> Any:
    with open_parquet(file) as opened:
        return opened.schema_arrow


def _read_parquet(file: Path, labelled: bool) -> Table:
    schema = _schema(file)
    places = _find_columns(schema.names, file, labelled)
    names = {column: schema.names[place] for column, place in places.items()}
    with open_parquet(file) as opened:
        content = opened.read(columns=list(names.values()))
    columns = {column: _cells(content.column(name), file) for column, name in names.items()}
    known = schema.metadata or {}
    root, source = (known[k].decode() if k in known else None for k in (ROOT_KEY, SOURCE_KEY))
    table = Table(file, columns, range(content.num_rows), "row", root, source)
    return _of_classes(table, schema.names)


def _cells(column: Any, file: Path) -> list[str]:
    """Texts and numbers as texts, lists of texts as joined ones, nulls as empty ones."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) and _is_text(kind.value_type):
        return [_joined(cell or [], file) for cell in column.to_pylist()]
    plain = (types.is_integer, types.is_boolean, types.is_floating, types.is_null)
    if not (_is_text(kind) or any(is_kind(kind) for is_kind in plain)):
        hint = "store texts in it, or lists of texts"
        raise UserError(f"a column of {kind}", str(file), hint)
    cells = column.cast(kind).cast(pyarrow.string()).to_pylist()
    return ["" if cell is None else cell for cell in cells]


def _joined(labels: Sequence[str], file: Path) -> str:
    """Several labels as a cell has them."""
    for label in labels:
        if not label.strip() or SEPARATOR in label:
            what = f"label {label!r} is empty, or holds {SEPARATOR!r}"
            raise UserError(what, str(file), "rename it")
    return SEPARATOR.join(labels)


def _read_json_lines(file: Path, labelled: bool) -> Table:
    """A table of JSON objects, one per line, as `metadata.jsonl` of the Hub has them."""
    numbers, records = list[int](), list[dict[str, Any]]()
    for number, line in enumerate(_text(file).splitlines(), 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                what = f"line {number}: no JSON object"
                raise UserError(what, str(file), "write one per line: file_name and label")
            numbers.append(number)
            records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {
        column: [_json_cell(r.get(names[place]), file, column == "label") for r in records]
        for column, place in _find_columns(names, file, labelled).items()
    }
    return _of_classes(Table(file, columns, numbers, "line"), names)


def _json_cell(value: Any, file: Path, is_label: bool) -> str:
    plain = (str, int, float)
    if isinstance(value, list) and all(isinstance(label, plain) for label in value):
        return _joined([str(label) for label in value], file)
    if isinstance(value, dict | list):
        if is_label:
            what = f"{json.dumps(value)[:80]} is no label"
            raise UserError(what, str(file), "write a text, or a list of texts")
        return json.dumps(value)
    return "" if value is None else str(value)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))

"""Gets the cells of a manifest out of a CSV or Parquet file; what they mean is not decided here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.data.sources._manifest import COLUMNS, ROOT_KEY, ROOT_MARK, SOURCE_KEY, Table
from distill.errors import UserError

PARQUET = ".parquet"
SHOWN = 8  # column names that a message lists at most


def read_table(file: Path, labelled: bool) -> Table:
    """The rows of a manifest, CSV unless its ending is `.parquet`.

    A CSV is UTF-8 with or without a byte order mark; cells are separated by `,`, `;` or tabs,
    whichever gives a path and a label column, and may be quoted. Rows without any content are
    passed over.

    Args:
        labelled: There has to be a column of labels; otherwise it is passed over.

    Raises:
        UserError: Not such a file, no rows, columns missing or there twice, ragged rows.
    """
    table = (_read_parquet if file.suffix.lower() == PARQUET else _read_csv)(file, labelled)
    if not table.numbers:
        raise UserError("no rows", str(file), "list the images, one per row")
    if not labelled:
        table.columns.pop("label", None)
    return table


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
    return any(name in kinds and _is_text(kinds[name]) for name in COLUMNS["path"])


@contextmanager
def readable_parquet(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a broken or vanished file into an error that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        what = f"not readable as Parquet: {str(error).partition(chr(10))[0]}"
        raise UserError(what, str(path), "fetch it again") from error


def _read_csv(file: Path, labelled: bool) -> Table:
    text = _text(file)
    failed: UserError | None = None
    for delimiter in ",;\t":
        records = _records(text, delimiter, file)
        try:
            root, names = _header(records, file)
        except UserError as error:  # such as quotes that another delimiter makes sense of
            failed = failed or error
            continue
        places = _find_columns(names, file)
        lacking = _lacking(places, labelled)
        if not lacking:
            return _csv_table(file, places, names, records, root)
        failed = failed or _no_column(lacking, names, file)
    assert failed is not None
    raise failed


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", str(file)) from None
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


def _find_columns(names: Sequence[str], file: Path) -> dict[str, int]:
    """Where our columns are; our own name of one comes before the names others give it."""
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
    return columns


def _lacking(places: dict[str, int], labelled: bool) -> list[str]:
    needed = ("path", "label") if labelled else ("path",)
    return [column for column in needed if column not in places]


def _no_column(lacking: Sequence[str], names: Sequence[str], file: Path) -> UserError:
    shown = ", ".join(repr(name[:40]) for name in names[:SHOWN])
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    hints = [f"the {name} column can be called {', '.join(COLUMNS[name])}" for name in lacking]
    what = f"no {' and no '.join(lacking)} column among {shown}{rest}"
    return UserError(what, str(file), "; ".join(hints))


def _schema(file: Path) -> Any:
    from pyarrow import parquet

    with readable_parquet(file), parquet.ParquetFile(file) as opened:
        return opened.schema_arrow


def _read_parquet(file: Path, labelled: bool) -> Table:
    from pyarrow import parquet

    schema = _schema(file)
    places = _find_columns(schema.names, file)
    lacking = _lacking(places, labelled)
    if lacking:
        raise _no_column(lacking, schema.names, file)
    names = {column: schema.names[place] for column, place in places.items()}
    with readable_parquet(file), parquet.ParquetFile(file) as opened:
        content = opened.read(columns=list(names.values()))
    columns = {column: _cells(content.column(name), file) for column, name in names.items()}
    known = schema.metadata or {}
    root, source = (known[k].decode() if k in known else None for k in (ROOT_KEY, SOURCE_KEY))
    return Table(file, columns, range(content.num_rows), "row", root, source)


def _cells(column: Any, file: Path) -> list[str]:
    """Texts and whole numbers as texts, nulls as empty ones."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (_is_text(kind) or types.is_integer(kind) or types.is_null(kind)):
        hint = "store texts in it; several labels are joined by ;"
        raise UserError(f"a column of {kind}", str(file), hint)
    cells = column.cast(kind).cast(pyarrow.string()).to_pylist()
    return ["" if cell is None else cell for cell in cells]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))

"""Results of the speed suite as tables on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from distill.benchmarks.sampling import MOST_VARIATION
from distill.benchmarks.speed_records import SpeedReport, SpeedRow

Column = tuple[str, Callable[[SpeedRow], str]]
TITLES = {
    "single_stream": "single stream: one query after the other",
    "multi_stream": "multi stream: {row.streams} at once",
    "server": "server: queries at random times, 99 % of them within {row.latency_bound_ms:g} ms",
    "offline": "offline: batches, the fastest of each marked *",
}
CLOCKS = {"model": "pixels to probabilities", "decode": "encoded picture to label"}
TERA, GIGA, MEGA = 1e12, 1e9, 1e6


def tables(report: SpeedReport) -> Iterator[Table]:
    """A table per clock and scenario, then one of what loading takes; empty is not measured."""
    sections: dict[tuple[str, str], list[SpeedRow]] = {}
    for row in report.rows:
        sections.setdefault((row.clock, row.scenario), []).append(row)
    for (clock, scenario), rows in sections.items():
        title = f"{TITLES[scenario].format(row=rows[0])}; {CLOCKS[clock]}"
        yield _table(title, rows, _offline if scenario == "offline" else _latency)
    first = {(row.name, row.engine): row for row in reversed(report.rows)}
    yield _table("what loading takes, and what is in a model", [*first.values()][::-1], _costs)


def heading(report: SpeedReport) -> str:
    """The conditions, in one line."""
    env, row = report.env, report.rows[0]
    gpus = ", ".join(gpu["name"] for gpu in env.get("gpus", ()))
    where = gpus if row.device == "cuda" and gpus else env["cpu"]
    conditions = f"threads: {row.threads}, rounds: {report.config.rounds}"
    return f"Inference speed on {where}, {conditions}"


def limit_lines(report: SpeedReport) -> list[str]:
    """What the hardware did at most, a line; none where it was not measured."""
    limits = report.limits
    if limits is None:
        return []
    products = ", ".join(
        f"{value / TERA:.2f} TFLOP/s in {name}" for name, value in limits.flop_per_s.items()
    )
    copied = f"{limits.bytes_per_s / GIGA:.1f} GB/s"
    return [f"limits, measured in the same rounds: matrix product {products}; copy {copied}"]


def warning_lines(report: SpeedReport) -> list[str]:
    """What not to trust, a line for each kind of warning."""
    rows = report.rows
    lines = list(report.warnings)
    unsteady = sum(_is_unsteady(row) for row in rows)
    if unsteady:
        what = f"{unsteady} of {len(rows)} rows differ by more than {MOST_VARIATION:g} % (marked !)"
        lines.append(f"{what} between rounds: smaller differences say nothing")
    few = sum(any("too few" in warning for warning in row.warnings or ()) for row in rows)
    if few:
        what = f"{few} of {len(rows)} rows have too few queries for every percentile"
        lines.append(f"{what}, which is blank then: more bench.seconds")
    return [f"warning: {line}" for line in lines]


def _table(title: str, rows: Sequence[SpeedRow], columns: Sequence[Column]) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", min_width=len(title))
    for name in ("model", "engine"):
        table.add_column(name, overflow="fold")
    columns = [column for column in columns if any(map(column[1], rows))]
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "type" else "right", no_wrap=True)
    for row in rows:
        texts = (row.name, row.engine, *(cell(row) for _, cell in columns))
        table.add_row(*map(Text, texts))
    return table


def _number(key: str, digits: int = 3, unit: float = 1.0) -> Callable[[SpeedRow], str]:
    """A cell of this figure, divided by the unit."""

    def cell(row: SpeedRow) -> str:
        value = getattr(row, key)
        return "" if value is None else f"{value / unit:,.{digits}f}"

    return cell


def _precision(row: SpeedRow) -> str:
    return row.precision or ""


def _interval(row: SpeedRow) -> str:
    if row.latency_p50_ci_ms is None:
        return ""
    low, high = row.latency_p50_ci_ms
    return f"{low:,.3f}-{high:,.3f}"


def _is_unsteady(row: SpeedRow) -> bool:
    return bool((row.variation_percent or 0.0) > MOST_VARIATION)


def _variation(row: SpeedRow) -> str:
    known = "" if row.variation_percent is None else f"{row.variation_percent:.1f}"
    return f"{known} !" if _is_unsteady(row) else known


def _batch(row: SpeedRow) -> str:
    return f"{'* ' if row.best else ''}{row.batch_size}"


_latency: tuple[Column, ...] = (
    ("type", _precision),
    ("p50 ms", _number("latency_p50_ms")),
    ("95 %", _interval),
    ("p90 ms", _number("latency_p90_ms")),
    ("p99 ms", _number("latency_p99_ms")),
    ("images/s", _number("images_per_s", 0)),
    ("range %", _variation),
    ("n", _number("n", 0)),
)
_offline: tuple[Column, ...] = (
    ("type", _precision),
    ("batch", _batch),
    ("images/s", _number("images_per_s", 0)),
    ("ms", _number("latency_p50_ms")),
    ("range %", _variation),
    ("GFLOP/s", _number("flop_per_s", 0, GIGA)),
    ("% prod", _number("flop_share_percent", 0)),
    ("GB/s", _number("bytes_per_s", 1, GIGA)),
    ("% copy", _number("bytes_share_percent", 0)),
)
_costs: tuple[Column, ...] = (
    ("type", _precision),
    ("MB", _number("size_bytes", 2, MEGA)),
    ("MFLOP/image", _number("flop_per_image", 1, MEGA)),
    ("load ms", _number("load_ms", 1)),
    ("first run ms", _number("first_ms", 1)),
)

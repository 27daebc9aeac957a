"""The load test of services as tables, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from distill.benchmarks.service_records import Kill, ServiceReport, ServiceRow, Soak, Step

MEGA = 1e6
ANCHOR = (
    "published elsewhere (MobileNetV3-small, JPEG of 393 kB, 4 cores, 50 clients): torch and "
    "FastAPI 35.6, onnxruntime and FastAPI 255.5, Rust 328.9 requests/s; image 296 MB, start 1.4 s"
)
BARE = {
    "session_per_s": "session alone, one thread",
    "decoded_per_s": "decoding and session, one thread",
    "decoded_threads_per_s": "decoding and session, a thread per core",
}


@dataclass(frozen=True)
class Sheet:
    """A table: its title, the names of its columns, and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(report: ServiceReport) -> Iterator[Sheet]:
    """What was measured, a table each; empty is not measured."""
    yield Sheet("without a service, images/s", ("picture", *BARE.values()), _bare(report))
    for title, cells in (
        (f"closed loop, {report.plan.clients} clients", HIGHEST),
        ("what an answer costs there, starting, and memory of all processes", COSTS),
    ):
        rows = tuple((r.size, r.target, *(cell(r) for _, cell in cells)) for r in _ordered(report))
        yield Sheet(title, ("picture", "service", *(name for name, _ in cells)), rows)
    rows = tuple(
        (row.size, row.target, *(cell(step) for _, cell in OPEN))
        for row in _ordered(report)
        for step in row.steps
    )
    if rows:
        columns = ("picture", "service", *(name for name, _ in OPEN))
        yield Sheet("open loop, at shares of the highest rate", columns, rows)
    if report.kills:
        yield _sheet("a worker killed in the middle", report.kills, KILL)
    if report.soaks:
        yield _sheet(
            "soak, both pictures in turn; MB/min is the slope of the second half",
            report.soaks,
            SOAK,
        )


def heading(report: ServiceReport) -> str:
    """The conditions, in one line."""
    env, plan = report.env, report.plan
    return (
        f"{env['model']} ({env['model_bytes'] / MEGA:.2f} MB) on {env['cpu']}, "
        f"{env['cores_usable']} cores shared with the generator, workers: {env['workers']}, "
        f"rounds: {plan.rounds} of {plan.seconds:g} s per loop"
    )


def closing_lines(report: ServiceReport) -> list[str]:
    """Pictures, ratios within rounds, what others published, why not to trust it: a line each."""
    lines = [
        f"{name}: {p.width} x {p.height}, {p.num_bytes:,} bytes, JPEG quality {p.quality}"
        for name, p in report.pictures.items()
    ]
    lines += [
        f"{size}: {', '.join(f'{name} {ratio:.2f}' for name, ratio in by_name.items())}"
        for size, by_name in report.ratios.items()
    ]
    return [*lines, ANCHOR, *(f"warning: {warning}" for warning in report.warnings)]


def tables(report: ServiceReport) -> Iterator[Table]:
    """The sheets for a terminal."""
    for sheet in sheets(report):
        table = Table(title=sheet.title, box=box.SIMPLE, title_justify="left")
        for number, name in enumerate(sheet.columns):
            table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
        for row in sheet.rows:
            table.add_row(*map(Text, row))
        yield table


def markdown(report: ServiceReport) -> str:
    """All of it, for a page."""
    parts = [heading(report) + ".\n"]
    for sheet in sheets(report):
        ruler = ("---", *("---:" for _ in sheet.columns[1:]))
        lines = (sheet.columns, ruler, *sheet.rows)
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"{sheet.title[0].upper()}{sheet.title[1:]}:\n\n{body}\n")
    return "\n".join([*parts, *(f"- {line}" for line in closing_lines(report)), ""])


def _ordered(report: ServiceReport) -> list[ServiceRow]:
    """Rows by size of picture, the order within as it is."""
    sizes = list(report.pictures)
    return sorted(report.rows, key=lambda row: sizes.index(row.size))


def _bare(report: ServiceReport) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (size, *(f"{found[name]:,.0f}" for name in BARE)) for size, found in report.bare.items()
    )


def _sheet(
    title: str, records: Sequence[Kill] | Sequence[Soak], columns: dict[str, Callable[..., str]]
) -> Sheet:
    rows = tuple(tuple(cell(record) for cell in columns.values()) for record in records)
    return Sheet(title, tuple(columns), rows)


def _number(key: str, digits: int = 0, unit: float = 1.0) -> Callable[..., str]:
    """A cell of this figure, divided by the unit."""

    def cell(record: object) -> str:
        value = getattr(record, key)
        return "" if value is None else f"{value / unit:,.{digits}f}"

    return cell


def _text(key: str) -> Callable[..., str]:
    return lambda record: str(getattr(record, key))


def _share(step: Step) -> str:
    return f"{100 * step.share:.0f} %"


HIGHEST: tuple[tuple[str, Callable[..., str]], ...] = (
    ("requests/s", _number("requests_per_s", 1)),
    ("range %", _number("variation_percent", 1)),
    ("p50 ms", _number("latency_p50_ms", 1)),
    ("p99 ms", _number("latency_p99_ms", 1)),
    ("503s", _number("busy")),
    ("errors", _number("failed")),
    ("silent", _number("silent")),
)
COSTS: tuple[tuple[str, Callable[..., str]], ...] = (
    ("CPU ms", _number("cpu_ms_per_answer", 2)),
    ("generator's core", lambda row: f"{100 * row.generator_share:.0f} %"),
    ("start s", _number("start_s", 2)),
    ("RSS MB", _number("rss_bytes", 0, MEGA)),
    ("PSS MB", _number("pss_bytes", 0, MEGA)),
)
OPEN: tuple[tuple[str, Callable[..., str]], ...] = (
    ("of highest", _share),
    ("requests/s", _number("rate_per_s", 1)),
    ("p50 ms", _number("latency_p50_ms", 1)),
    ("p99 ms", _number("latency_p99_ms", 1)),
    ("answered %", _number("answered_percent", 2)),
    ("503s", _number("busy")),
    ("errors", _number("failed")),
    ("lost", _number("lost")),
)
KILL: dict[str, Callable[..., str]] = {
    "service": _text("target"),
    "picture": _text("size"),
    "answered": _number("answered"),
    "503s": _number("busy"),
    "cut off": _number("closed"),
    "refused": _number("refused"),
    "other": _number("other"),
    "silent": _number("silent"),
    "processes before": _number("processes_before"),
    "after": _number("processes_after"),
}
SOAK: dict[str, Callable[..., str]] = {
    "service": _text("target"),
    "s": _number("seconds"),
    "requests/s": _number("rate_per_s", 1),
    "answered": _number("answered"),
    "503s": _number("busy"),
    "errors": _number("failed"),
    "silent": _number("silent"),
    "start MB": _number("start_bytes", 1, MEGA),
    "middle": _number("middle_bytes", 1, MEGA),
    "end": _number("end_bytes", 1, MEGA),
    "most": _number("most_bytes", 1, MEGA),
    "MB/min": _number("second_half_bytes_per_minute", 3, MEGA),
}

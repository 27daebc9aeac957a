"""Tables and plots of the speed suite."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from distill.benchmarks.limits import Limits
from distill.benchmarks.speed_plots import accuracy_points, draw_all
from distill.benchmarks.speed_records import SpeedReport, SpeedRow
from distill.benchmarks.speed_report import heading, limit_lines, tables, warning_lines
from distill.config import BenchConfig
from distill.report.results import ResultRow


def row(name: str = "a[b].onnx", engine: str = "onnxruntime", **changes: Any) -> SpeedRow:
    found: dict[str, Any] = {"name": name, "engine": engine, "device": "cpu", "precision": "fp32"}
    found |= {"threads": 2, "scenario": "single_stream", "clock": "model", "batch_size": 1}
    found |= {"n": 40, "latency_p50_ms": 2.0, "latency_p50_ci_ms": [1.5, 2.25]}
    found |= {"images_per_s": 500.0, "load_ms": 31.0, "first_ms": 4.5}
    return SpeedRow(**(found | changes))


def document(*rows: SpeedRow, **changes: Any) -> SpeedReport:
    found = {"rows": rows, "left_out": (), "warnings": (), "limits": None, "env": {"cpu": "EPYC"}}
    return SpeedReport(**(found | {"config": BenchConfig(rounds=3)} | changes))


def texts(found: SpeedReport) -> list[str]:
    """Every line of all tables, its words apart by one space."""
    console = Console(width=160, record=True, file=io.StringIO())
    for one in tables(found):
        console.print(one)
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_a_table_leaves_out_what_no_row_has() -> None:
    lines = texts(document(row()))
    assert "model engine type p50 ms 95 % images/s n" in lines
    assert "a[b].onnx onnxruntime fp32 2.000 1.500-2.250 500 40" in lines
    assert "a[b].onnx onnxruntime fp32 31.0 4.5" in lines  # loading, first run


def test_each_scenario_and_clock_is_a_table() -> None:
    found = document(
        row(),
        row(clock="decode"),
        row(scenario="server", latency_bound_ms=15.0),
        row(scenario="multi_stream", streams=4),
        row(scenario="offline", batch_size=8, best=True, flop_per_s=2e9, flop_share_percent=31.0),
        row(scenario="offline", batch_size=64),
    )
    lines = texts(found)
    titles = [line for line in lines if ";" in line]
    assert len(titles) == 5
    assert any("within 15 ms" in title for title in titles)
    assert any("4 at once" in title for title in titles)
    assert "a[b].onnx onnxruntime fp32 * 8 500 2.000 2 31" in lines
    assert "a[b].onnx onnxruntime fp32 64 500 2.000" in lines


def test_the_conditions_are_stated() -> None:
    assert heading(document(row())) == "Inference speed on EPYC, threads: 2, rounds: 3"
    found = document(row(device="cuda"), env={"cpu": "EPYC", "gpus": [{"name": "H100"}]})
    assert "H100" in heading(found)


def test_what_not_to_trust_is_marked_and_counted() -> None:
    unsteady = row(variation_percent=12.0)
    few = row(warnings=["40 queries are too few for p99, which takes 368"])
    found = document(unsteady, few, row(variation_percent=4.0), warnings=["not idle"])
    assert sum(line.endswith(" 12.0 ! 40") for line in texts(found)) == 1
    lines = warning_lines(found)
    assert len(lines) == 3
    assert "not idle" in lines[0]
    assert "1 of 3" in lines[1]
    assert "1 of 3" in lines[2]
    assert warning_lines(document(row())) == []


def test_limits_are_printed_where_there_are_some() -> None:
    limits = Limits(flop_per_s={"fp32": 1.5e11}, bytes_per_s=2.04e10)
    line = limit_lines(document(row(), limits=limits))[0]
    assert "0.15 TFLOP/s" in line
    assert "20.4 GB/s" in line
    assert limit_lines(document(row())) == []


def test_points_are_of_one_image_and_have_a_score() -> None:
    shipped = ResultRow(name="s.onnx", kind="onnx", latency_p50_ms=1.0, test={"top1": 97.0})
    rows = [
        row(val={"top1": 90.0}),
        row(),
        row(clock="decode", val={"top1": 90.0}),
        row(scenario="offline", val={"top1": 90.0}),
        shipped,
        ResultRow(name="forest", kind="control", test={"top1": 80.0}),
    ]
    points = accuracy_points(rows)
    assert [(point.name, point.score, point.of) for point in points] == [
        ("a[b].onnx", 90.0, ("top1", "val")),
        ("s.onnx", 97.0, ("top1", "test")),
    ]


def test_plots_are_drawn_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sizes = [row(scenario="offline", batch_size=size) for size in (1, 8)]
    scored = row(val={"map": 90.0}, size_bytes=2_000_000)
    drawn = draw_all([*sizes, scored], "title", tmp_path / "x.1")
    assert [file.name for file in drawn] == ["x.1.batch.png", "x.1.accuracy.png"]
    assert all(Image.open(file).size[0] > 500 for file in drawn)
    assert draw_all([row(), sizes[0]], "title", tmp_path / "y") == []

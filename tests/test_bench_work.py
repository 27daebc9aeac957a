"""The work in a graph by hand, what the hardware can do, and what the machine tells of itself."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.benchmarks import limits, machine
from distill.benchmarks.flops import Work, count_work
from distill.benchmarks.limits import Limits
from distill.benchmarks.speed_records import SpeedRow
from distill.benchmarks.speed_rows import add_share

onnx = pytest.importorskip("onnx")


def test_the_work_of_a_convolution_and_a_linear_layer(tiny_onnx: Path) -> None:
    """3 x 24 x 32 pixels, 4 filters of 3 x 3, stride 2: 4 x 12 x 16 = 768 values of 27 products.

    2 * 768 * 27 = 41,472; the linear layer from 4 to 3 adds 2 * 3 * 4 = 24. Bytes, 4 per value:
    weights 108 + 4 + 12 + 3 = 127 values; layers read and write 2,304 + 768 and 4 + 3.
    """
    found = count_work(tiny_onnx)
    assert found == Work(41_472 + 24, 127 * 4, (2_304 + 768 + 7) * 4)
    assert found.bytes_per_image(1) == 508 + 12_316
    assert found.bytes_per_image(4) == 127 + 12_316


def graph_of(nodes: list, shapes: dict[str, list], weights: dict[str, tuple[list, int]]) -> bytes:
    helper = onnx.helper
    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    tensors = [
        helper.make_tensor(name, kind, dims, bytes(_size(dims, kind)), raw=True)
        for name, (dims, kind) in weights.items()
    ]
    graph = helper.make_graph(nodes, "g", [values["x"]], [values["y"]], tensors)
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def _size(dims: list[int], kind: int) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize


def test_grouped_convolutions_and_matrix_products(tmp_path: Path) -> None:
    """8 channels of 10 x 10, depthwise 3 x 3: 8 * 8 * 8 = 512 values of 9 products.

    Then 8 x 8 columns times an 8 x 5 matrix: 8 * 8 * 5 = 320 values of 8 products.
    """
    node, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        node("Conv", ["x", "w"], ["c"], group=8),
        node("MatMul", ["c", "m"], ["y"]),
    ]
    shapes = {"x": ["batch", 8, 10, 10], "y": ["batch", 8, 8, 5]}
    file = tmp_path / "grouped.onnx"
    file.write_bytes(graph_of(nodes, shapes, {"w": ([8, 1, 3, 3], kind), "m": ([8, 5], kind)}))
    found = count_work(file)
    assert found == Work(2 * (512 * 9 + 320 * 8), 4 * (72 + 40), 4 * (800 + 512 + 512 + 320))


def test_quantised_values_are_bytes(tmp_path: Path) -> None:
    """A QDQ convolution reads and writes one byte per value: 2 x 4 x 4 in, 3 x 4 x 4 out."""
    node, kinds = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "s", "zw"], ["dw"]),
        node("Conv", ["d", "dw"], ["y"]),
    ]
    shapes = {"x": ["batch", 2, 4, 4], "y": ["batch", 3, 4, 4]}
    weights = {
        "s": ([], kinds.FLOAT),
        "z": ([], kinds.UINT8),
        "zw": ([], kinds.INT8),
        "w": ([3, 2, 1, 1], kinds.INT8),
    }
    file = tmp_path / "int8.onnx"
    file.write_bytes(graph_of(nodes, shapes, weights))
    assert count_work(file) == Work(2 * 48 * 2, 4 + 1 + 1 + 6, 32 + 48)


def test_an_unknown_shape_is_no_count(tmp_path: Path) -> None:
    node, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [node("Unheard", ["x"], ["u"], domain="ours"), node("MatMul", ["u", "m"], ["y"])]
    shapes = {"x": ["batch", 4], "y": ["batch", 3]}
    file = tmp_path / "unknown.onnx"
    file.write_bytes(graph_of(nodes, shapes, {"m": ([4, 3], kind)}))
    assert count_work(file) is None


def row_of(**known: object) -> SpeedRow:
    """A row before the work in its file is known."""
    asked = {"name": "a", "engine": "x", "device": "cpu", "threads": 1, "scenario": "offline"}
    return SpeedRow(**asked, n=10, load_ms=1.0, first_ms=1.0, **known)


def test_shares_of_the_limits() -> None:
    """1,000 images of 2 MFLOP are 2 GFLOP/s, 20 % of 10; 8 kB and 16 kB / 8 are 10 MB/s, 1 %."""
    work = Work(2_000_000, 16_000, 8_000)
    limit = Limits(flop_per_s={"fp32": 1e10}, bytes_per_s=1e9)
    row = row_of(clock="model", precision="fp32", batch_size=8, images_per_s=1000.0)
    row = add_share(row, work, limit)
    assert row.flop_per_s == 2e9
    assert row.flop_share_percent == 20
    assert row.bytes_per_s == 1e7
    assert row.bytes_share_percent == 1


@pytest.mark.parametrize(
    ("changes", "limit", "absent"),
    [
        ({"clock": "decode"}, Limits(flop_per_s={"fp32": 1.0}, bytes_per_s=1.0), "flop_per_s"),
        ({"precision": "int8"}, Limits(flop_per_s={"fp32": 1.0}, bytes_per_s=1.0), "flop_share"),
        ({}, None, "share_percent"),
    ],
)
def test_a_share_of_nothing_is_absent(changes: dict, limit: Limits | None, absent: str) -> None:
    known = {"clock": "model", "precision": "fp32", "batch_size": 1, "images_per_s": 5.0} | changes
    row = add_share(row_of(**known), Work(1, 1, 1), limit)
    assert not [key for key in row.to_json() if absent in key]


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With small sizes: the arithmetic is the same."""
    monkeypatch.setattr(limits, "SIZE", 16)
    monkeypatch.setattr(limits, "COPY_BYTES", 1000)
    monkeypatch.setattr(limits, "fastest", lambda work: (work(), 0.5)[1])
    found = limits.cpu_limits(threads=3)
    # 2 * 16^3 operations and 1,000 bytes read and written, in half a second
    assert found.to_json() == {"flop_per_s": {"fp32": 16_384.0}, "bytes_per_s": 4000.0}


def test_the_machine_says_what_it_can() -> None:
    found = machine.machine()
    assert found["cores_usable"] >= 1
    assert len(found["load"]) == 3
    assert None not in found.values()
    assert set(found.get("cpu_flags", [])) <= set(machine.FLAGS)


def test_threads_are_stated_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.resolve_threads(3) == 3
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    assert machine.resolve_threads(0) == 1


def test_a_busy_machine_is_said() -> None:
    assert machine.busy_warning(10.0) is None
    assert "37 %" in (machine.busy_warning(36.6) or "")


def test_gpus_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "NVIDIA H100, 550.1, 1980, 1980, 2619, 700.00, 81559\nOther, [N/A], 1, 2, 3, 4, 5\n"
    found = machine.parse_gpus(listing)
    assert found[0]["name"] == "NVIDIA H100"
    assert found[0]["clock_max_mhz"] == "1980"
    assert "driver" not in found[1]

    def no_driver(*arguments: object, **options: object) -> SimpleNamespace:
        raise FileNotFoundError

    monkeypatch.setattr(machine.subprocess, "run", no_driver)
    assert machine.gpus() == []

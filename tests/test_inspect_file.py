"""What `distill inspect` tells of a file: held against what the file was made of."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill.config import ModelConfig
from distill.errors import UserError
from distill.pipeline.export import export_student
from distill.runtime.inspect_file import describe_file, lines_of

WIDE = ModelConfig(name="compact", options={"width": [32, 64], "depth": [1, 1], "head_width": 0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_experiment) -> Path:
    """An fp32, an fp16 and an int8 file."""
    targets = ("onnx_fp16", "onnx_int8")
    options = {"targets": targets, "int8_max_drop": 100.0, "thresholds": "f1", "license": "MIT"}
    experiment = make_experiment(tmp_path_factory.mktemp("made"), "multi", model=WIDE, **options)
    export_student(experiment)
    return experiment.out / "export"


def somebody_elses(file: Path) -> Path:
    """Two numbers in, their double out."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    two = numpy_helper.from_array(np.float32([2.0, 2.0]), "two")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])], "g", *zip(ends), [two]
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), file)
    return file


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_is_told_is_what_the_file_is_made_of(precision, folder):
    file = folder / f"student.{precision}.onnx"
    found, model = describe_file(file), onnx.load(file)
    assert found["size_bytes"] == file.stat().st_size
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    image = {"name": "image", "type": "tensor(uint8)", "shape": ["batch", 16, 16, 3]}
    assert found["inputs"] == [image]
    assert [output["name"] for output in found["outputs"]] == ["prob", "cam", "embedding"]
    graph = found["graph"]
    assert (graph["ir_version"], graph["opset"]) == (model.ir_version, {"ai.onnx": 18})
    assert sum(graph["operators"].values()) == len(model.graph.node)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert sum(graph["weights"].values()) == sum(array.size for array in arrays)
    main = {"fp32": "float", "fp16": "float16", "int8": "int8"}[precision]
    assert max(graph["weights"], key=graph["weights"].get) == main
    assert ("qdq" in graph) == (precision == "int8")
    assert found["metadata"]["precision"] == precision
    assert list(found["metadata"]["thresholds"]) == ["red", "green", "blue"]


def test_the_command_shows_it_in_lines_and_as_json(folder, distill):
    file = folder / "student.int8.onnx"
    status, out, _ = distill("inspect", file, "--json")
    assert status == 0
    *lines, last = out.splitlines()
    assert json.loads(last) == json.loads(json.dumps(describe_file(file)))
    shown = "\n".join(lines)
    for part in ("image: tensor(uint8) [batch, 16, 16, 3]", "red, green, blue", "QuantizeLinear"):
        assert part in shown
    for key in ("sha256", "description", "task", "precision", "license"):
        value = describe_file(file).get(key) or describe_file(file)["metadata"][key]
        assert str(value) in shown


def test_without_onnx_it_tells_what_onnxruntime_knows(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    found = describe_file(folder / "student.fp32.onnx")
    assert "graph" not in found
    assert found["metadata"]["task"] == "multi"
    assert any("pip install onnx" in line for line in lines_of(found))


def test_a_file_of_others_is_shown_and_not_taken_for_ours(tmp_path):
    found = describe_file(somebody_elses(tmp_path / "double.onnx"))
    assert found["graph"]["operators"] == {"Mul": 1}
    assert found["graph"]["weights"] == {"float": 2}
    assert found["metadata"] == {}
    assert any("not a file that `distill export` wrote" in line for line in lines_of(found))


def test_many_classes_are_cut_in_text_only():
    names = [f"class {index}" for index in range(1000)]
    found = {"file": "m", "size_bytes": 1, "sha256": "", "inputs": [], "outputs": []}
    lines = lines_of({**found, "metadata": {"names": names}})
    (line,) = (line for line in lines if line.startswith("classes"))
    assert "1000: class 0, " in line
    assert line.endswith("class 11, and 988 more")


@pytest.mark.parametrize("content", [None, b"", b"not onnx", b"\x08\x0a\x12\x04"])
def test_other_files_are_one_line_and_status_2(content, tmp_path, distill):
    file = tmp_path / "m.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx"):
        describe_file(file)
    status, out, err = distill("inspect", file)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1

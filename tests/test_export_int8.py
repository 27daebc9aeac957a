"""The int8 file: that it is one, what it says of itself, and what it takes to be published."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from PIL import Image

from distill.config import ExportConfig
from distill.data.prepare import ImageData
from distill.errors import NoSpace, UserError
from distill.export.int8 import gate as gate_module
from distill.export.int8 import steps as int8_steps
from distill.export.int8.calibration import METHODS, share_ranges
from distill.export.int8.first_layer import lay_out
from distill.export.int8.gate import Gate, export_int8, time_ratio
from distill.export.int8.integers import float_in_disguise, kernels
from distill.export.int8.quantiser import Quantiser
from distill.export.int8.steps import Step, escalate, summary
from distill.export.onnx_file import describe, probs_of_file
from distill.export.onnx_graph import inner_nodes, order_layers
from distill.models.classifier import Classifier
from distill.runtime import latency, threads
from distill.runtime.predict import Predictor
from distill.scoring.metrics import score
from distill.scoring.tasks import task_of
from distill.scoring.thresholds import tune

MINMAX = Step(step="minmax", calibration="minmax")
NUM_CONVOLUTIONS = 4  # three blocks and the head's; the one of the activation maps is not counted


class Shipped(NamedTuple):
    """A trained fp32 file, and the images that its int8 file is made with and scored on.

    They are those it was trained on: what counts here is what int8 changes.
    """

    file: Path
    pixels: np.ndarray
    labels: np.ndarray
    data: ImageData

    def export(self, file: Path, **options) -> dict:
        config = ExportConfig(int8_max_drop=100.0, **options)
        val = (self.pixels, self.labels)
        return export_int8(self.file, file, self.pixels, val, config).to_json()

    def gate(self, folder: Path, labels: np.ndarray, **options) -> Gate:
        return Gate(self.file, self.pixels, labels, ExportConfig(**options), 1, folder)


@pytest.fixture(scope="module")
def single(data, ship_briefly, tmp_path_factory) -> Shipped:
    file, pixels, _ = ship_briefly(data, tmp_path_factory.mktemp("single"))
    return Shipped(file, pixels, data.train.labels, data)


@pytest.fixture(scope="module")
def multi(multi_data, ship_briefly, tmp_path_factory) -> Shipped:
    file, pixels, _ = ship_briefly(multi_data, tmp_path_factory.mktemp("multi"))
    return Shipped(file, pixels, multi_data.train.labels, multi_data)


@pytest.fixture(params=["single", "multi"])
def shipped(request) -> Shipped:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def published(single) -> tuple[Path, dict]:
    """The int8 file of the single-label classifier, and its record."""
    file = single.file.with_name("student.int8.onnx")
    return file, single.export(file)


def initialisers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_the_int8_file_agrees_with_the_fp32_file(shipped, tmp_path):
    record = shipped.export(tmp_path / "m.onnx")
    assert [step["step"] for step in record["steps"]] == ["minmax"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    pixels, task = shipped.pixels, shipped.data.task
    expected, found = (
        probs_of_file(shipped.file, pixels),
        probs_of_file(tmp_path / "m.onnx", pixels),
    )
    assert task_of(task).agreement(found, expected) >= 90.0
    assert 0.0 < np.abs(found - expected).mean() < 0.02


def test_its_convolutions_have_quantised_inputs_and_integer_kernels(published, tmp_path):
    file, record = published
    graph = onnx.load(file).graph
    producer = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    quantised = [
        node
        for node in convolutions
        if {producer[name].op_type for name in node.input[:2] if name in producer}
        == {"DequantizeLinear"}
        and all(name in producer for name in node.input[:2])
    ]
    assert len(quantised) == NUM_CONVOLUTIONS
    left = [node for node in convolutions if node not in quantised]
    assert [node.output[0] for node in left] == ["cam"]
    ran = kernels(file, tmp_path)
    assert (ran["QLinearConv"], ran["QGemm"], ran["Conv"]) == (NUM_CONVOLUTIONS, 1, 1)
    assert record["steps"][0]["kernels"] == ran
    assert list(tmp_path.iterdir()) == []


def test_normalisation_and_softmax_stay_in_float(published):
    graph = onnx.load(published[0]).graph
    producer = {output: node for node in graph.node for output in node.output}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    before, tensor = [], first.input[0]
    while tensor in producer:
        before.append(producer[tensor].op_type)
        tensor = producer[tensor].input[0]
    assert (before, tensor) == (["Add", "Mul", "Cast", "Transpose"], "image")
    # The logits come straight out of the linear layer: a sum in 32 bits, not one of 256 values.
    softmax = producer["prob"]
    assert (softmax.op_type, producer[softmax.input[0]].op_type) == ("Softmax", "Gemm")
    types = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert types == [onnx.TensorProto.UINT8, *[onnx.TensorProto.FLOAT] * 3]


def test_no_pair_of_products_overflows_16_bits(published):
    """Without VNNI two products are added in 16 bits: weights of 8 bits would saturate there."""
    model = onnx.load(published[0])
    weights = [w for w in initialisers(model).values() if w.dtype == np.int8 and w.ndim > 1]
    assert len(weights) == NUM_CONVOLUTIONS + 1
    for weight in weights:
        per_channel = np.abs(weight.astype(int)).reshape(len(weight), -1).max(axis=1)
        assert 2 * 255 * per_channel.max() < 2**15
        # A scale per channel: each uses its whole range.
        assert (per_channel >= 63).all()
    rounded = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {initialisers(model)[name].dtype for name in rounded} == {np.dtype(np.uint8)}


def test_it_carries_nothing_that_nobody_reads(shipped, tmp_path, monkeypatch):
    """What is left out changes neither an answer nor a kernel."""
    quantiser = Quantiser(shipped.file, shipped.pixels, tmp_path)
    file = quantiser.quantise("minmax").rename(tmp_path / "trimmed.onnx")
    monkeypatch.setattr("distill.export.int8.quantiser.trim", lambda *_: None)
    whole = quantiser.quantise("minmax")
    assert file.stat().st_size < whole.stat().st_size - 2_500
    assert kernels(file, tmp_path) == kernels(whole, tmp_path)
    pixels = shipped.pixels[:64]
    np.testing.assert_array_equal(probs_of_file(file, pixels), probs_of_file(whole, pixels))
    graph, before = onnx.load(file).graph, onnx.load(quantiser.prepared).graph
    layers = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert layers == [node.name for node in before.node if node.op_type in ("Conv", "Gemm")]


def test_the_file_is_self_contained_and_any_batch_goes(published, single):
    file, _ = published
    model = onnx.load(file)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert model.ir_version <= 10
    assert model.producer_name == "distillate"
    assert not any(t.data_location for t in model.graph.initializer)
    raw = file.read_bytes()
    assert b"site-packages" not in raw
    assert b"/tmp" not in raw
    assert str(Path.cwd()).encode() not in raw
    pixels = np.concatenate([single.pixels] * 2)[:64]
    whole = Predictor(file).probs(pixels)
    for size in (1, 2, 5):
        np.testing.assert_allclose(Predictor(file).probs(pixels[:size]), whole[:size], atol=1e-6)
    assert file.stat().st_size < 0.5 * single.file.stat().st_size


def test_the_same_images_give_the_same_file(published, single, tmp_path):
    single.export(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == published[0].read_bytes()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("single", {}),
        ("single", {"thresholds": "accuracy", "min_accuracy": 50.0}),
        ("multi", {}),
        ("multi", {"thresholds": "fpr", "max_fpr": 0.2}),
    ],
)
def test_its_metadata_is_the_fp32_files_with_scores_and_thresholds_of_its_own(
    request, name, options, tmp_path
):
    shipped: Shipped = request.getfixturevalue(name)
    pixels, labels, names = shipped.pixels, shipped.labels, shipped.data.classes
    record = shipped.export(tmp_path / "m.onnx", **options)
    predictor, before = Predictor(tmp_path / "m.onnx"), Predictor(shipped.file).metadata
    own = {"precision", "metrics", "thresholds"}
    assert {k: v for k, v in predictor.metadata.items() if k not in own} == {
        k: v for k, v in before.items() if k not in own
    }
    assert predictor.metadata["precision"] == "int8"
    probs = probs_of_file(predictor.path, pixels)
    tuned = tune(probs, labels, names, ExportConfig(**options))
    assert predictor.metadata["thresholds"] == pytest.approx(tuned.thresholds)
    assert record["thresholds"] == {"split": "val", **tuned.record}
    expected = score(probs, labels, names, tuned.array())
    assert predictor.metadata["metrics"] == json.loads(json.dumps({"split": "val", **expected}))
    main = "map" if name == "multi" else "top1"
    assert (record["score"], record["steps"][0]["score"]) == (main, expected[main])
    in_fp32 = score(probs_of_file(shipped.file, pixels), labels, names)[main]
    assert record["reference"]["score"] == in_fp32
    assert record["steps"][0]["drop"] == in_fp32 - expected[main]


def test_it_is_used_without_torch_and_onnx_and_scored_alike_by_others(
    published, single, tmp_path, repository
):
    file, test = published[0], single.data.test
    for index, label in enumerate(test.labels):
        folder = tmp_path / single.data.classes[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(test.pixels[index]).save(folder / f"{index}.png")
    top1 = score(probs_of_file(file, test.pixels), test.labels, single.data.classes)["top1"]
    script = (
        "import sys\n"
        "sys.modules |= {'torch': None, 'onnx': None}\n"
        f"sys.argv = ['distill', 'evaluate', {str(file)!r}, {str(tmp_path)!r}, '--json']\n"
        "from distill.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["top1"] == pytest.approx(top1)
    scorer = repository.parent / "shared" / "tools" / "score_onnx.py"
    if not scorer.is_file():
        pytest.skip(f"no independent scorer: {scorer} is missing")
    done = subprocess.run([sys.executable, scorer, file, tmp_path], capture_output=True, text=True)
    assert f"top1 {top1:.2f} on {len(test.labels)} images" in done.stdout


def test_every_way_of_calibration_and_layers_in_float(multi, tmp_path):
    quantiser = Quantiser(multi.file, multi.pixels, tmp_path)
    assert len(quantiser.layers) == NUM_CONVOLUTIONS + 1
    assert quantiser.ends == (quantiser.layers[0], quantiser.layers[-1])
    expected = probs_of_file(multi.file, multi.pixels)
    for method in METHODS:
        found = probs_of_file(quantiser.quantise(method), multi.pixels)
        assert task_of("multi").agreement(found, expected) >= 70.0
    order = quantiser.by_sensitivity("minmax")
    assert sorted(order) == sorted(quantiser.layers)
    moved = []
    for layer in order:
        others = [other for other in quantiser.layers if other != layer]
        file = quantiser.quantise("minmax", others)
        moved.append(np.abs(probs_of_file(file, multi.pixels) - expected).mean())
    assert moved[0] > moved[-1] > 0.0
    file = quantiser.quantise("minmax", quantiser.ends)
    ran = kernels(file, tmp_path)
    assert (ran["QLinearConv"], ran["QGemm"]) == (NUM_CONVOLUTIONS - 1, 0)
    # It says so if a layer is not what it should be.
    assert float_in_disguise(file, quantiser.layers[1:-1], ran) == []
    reason = f"2 of 5 layers have no quantised inputs, the first is {quantiser.layers[0]}"
    assert float_in_disguise(file, quantiser.layers, ran) == [reason]


def test_an_int8_file_in_float_is_found_out(single, published, tmp_path):
    quantiser = Quantiser(single.file, single.pixels, tmp_path)
    reasons = float_in_disguise(single.file, quantiser.layers, kernels(single.file, tmp_path))
    assert [reason.split(",")[0] for reason in reasons] == [
        "it has no Q/DQ nodes",
        "5 of 5 layers have no quantised inputs",
        "onnxruntime runs no layer in integers",
    ]
    # Q/DQ nodes alone are not enough, if the runtime computes in float between them.
    ran = kernels(published[0], tmp_path)
    assert float_in_disguise(published[0], quantiser.layers, ran) == []
    ran["QLinearConv"] -= 1
    found = float_in_disguise(published[0], quantiser.layers, ran)
    assert found == ["onnxruntime runs 3 of 4 convolutions in integers"]


def graph_of(*nodes, weights=(), outputs=("prob",)) -> onnx.GraphProto:
    """A graph of `type name: inputs > output` lines, of which only the wiring counts."""
    made = []
    for line in nodes:
        head, _, wires = line.partition(": ")
        inputs, _, output = wires.partition(" > ")
        kind, name = head.split()
        made.append(onnx.helper.make_node(kind, inputs.split(), [output], name))
    infos = [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("image", *outputs)]
    tensors = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights]
    return onnx.helper.make_graph(made, "g", infos[:1], infos[1:], tensors)


BRANCHED = graph_of(
    "Mul normalise: image w > x",
    "Conv a: x w > a",
    "Conv b: x w > b",
    "Relu act: a > r",
    "Add join: r b > j",
    "MatMul attend: j r > t",
    "Conv c: t w > c",
    "Relu last: c > e",
    "Conv map: e w > cam",
    "GlobalAveragePool pool: e > p",
    "Softmax soft: p > prob",
    weights=["w"],
    outputs=("prob", "cam"),
)


def test_only_what_lies_between_the_layers_is_quantised():
    """Neither normalisation nor what follows the last layer, but for its activation."""
    assert inner_nodes(BRANCHED) == ["a", "b", "act", "join", "attend", "c", "last"]
    assert order_layers(BRANCHED) == (("a", "b", "c"), ("a", "b", "c"))
    chain = graph_of("Conv a: image w > x", "Conv b: x w > y", "Gemm c: y w > prob", weights=["w"])
    assert order_layers(chain) == (("a", "b", "c"), ("a", "c"))


def test_constants_of_the_normalisation_are_as_wide_as_the_image(single, tmp_path):
    """onnxruntime once took longer to normalise channels last than for most of the network."""
    quantiser = Quantiser(single.file, single.pixels, tmp_path)
    shapes = [v.shape for v in initialisers(onnx.load(quantiser.prepared)).values()]
    assert shapes.count((1, 3, 1, 32)) == 2
    assert (1, 3, 1, 1) not in shapes
    found = probs_of_file(quantiser.prepared, single.pixels)
    np.testing.assert_allclose(found, probs_of_file(single.file, single.pixels), atol=1e-6)
    graph = onnx.load(quantiser.prepared).graph
    before = initialisers(onnx.load(quantiser.prepared))
    lay_out(graph)  # nothing is left to do
    after = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_first_layer_that_takes_pixels_takes_the_bytes_of_the_image(data, ship_briefly, tmp_path):
    """Without padding it needs no normalisation before it, and no other step than 1 in 255."""
    source, pixels, _ = ship_briefly(data, tmp_path, stride=[4, 2])
    dark = pixels // 4  # images that do not show the whole range
    file = Quantiser(source, dark, tmp_path).quantise("minmax")
    graph = onnx.load(file).graph
    producer = {output: node for node in graph.node for output in node.output}
    first = next(node for node in graph.node if node.op_type == "Conv")
    dequantise = producer[first.input[0]]
    values = initialisers(onnx.load(file))
    assert [float(values[name]) for name in dequantise.input[1:]] == [1.0, 0.0]
    transpose = producer[dequantise.input[0]]
    assert transpose.op_type == "Transpose"
    assert producer[transpose.input[0]].input[0] == "image"
    assert "Cast" not in {node.op_type for node in graph.node}
    found, expected = probs_of_file(file, dark), probs_of_file(source, dark)
    assert 0.0 < np.abs(found - expected).mean() < 0.02


@pytest.mark.parametrize("stem", [4, 3])
def test_windows_side_by_side_are_read_by_rows(data, ship_briefly, tmp_path, stem):
    """Four pixels of a row are twelve channels, which kernels take at once; nine are not."""
    source, pixels, _ = ship_briefly(data, tmp_path, stride=[stem, 2])
    quantiser = Quantiser(source, pixels, tmp_path)
    prepared = onnx.load(quantiser.prepared)
    weights = initialisers(prepared)
    first = next(node for node in prepared.graph.node if node.op_type == "Conv")
    rows = stem == 4
    assert weights[first.input[1]].shape[1:] == ((12, 4, 1) if rows else (3, 3, 3))
    assert ("Reshape" in {node.op_type for node in prepared.graph.node}) == rows
    found = probs_of_file(quantiser.prepared, pixels)
    np.testing.assert_allclose(found, probs_of_file(source, pixels), atol=1e-6)
    lay_out(prepared.graph)
    again = initialisers(prepared)
    assert {name: w.shape for name, w in again.items()} == {n: w.shape for n, w in weights.items()}
    assert kernels(quantiser.quantise("minmax"), tmp_path)["Transpose"] <= 1  # of the last maps


def test_what_is_only_concatenated_has_the_range_of_the_whole():
    graph = graph_of(
        "Concat inner: a b > i", "Concat outer: i c d > o", "Conv also: c w > e", weights=["w"]
    )
    ranges = {name: name.upper() for name in "abcio"}  # d has no range: it is no float
    share_ranges(graph, ranges)
    # `c` is used elsewhere, where its own range is worth more.
    assert ranges == {"a": "O", "b": "O", "i": "O", "c": "C", "o": "O"}


class Fake:
    """Seven layers that nothing is computed with, and a file name for each step."""

    layers = ("stem", "a", "b", "c", "d", "e", "head")
    ends = ("stem", "head")

    def __init__(self, can_distil: bool = False, **failing: Exception) -> None:
        self.can_distil, self.failing = can_distil, failing
        self.ranked: list[str] = []

    def quantise(self, method, floats=()):
        if method in self.failing:
            raise self.failing[method]
        return Path(f"{method}-{len(floats)}.onnx")

    def distilled(self, method):
        return Path(f"{method}-distilled.onnx")

    def by_sensitivity(self, method):
        self.ranked.append(method)
        order = ["head", "d", "b", "a", "e", "c", "stem"]
        return [layer for layer in order if layer in self.layers]


def judge_by(drops: dict[str, float], most: float = 0.5, size: float = 0.3):
    """A judge that knows the drop of each file, and keeps what it was asked.

    Args:
        size: As a share; what layers in float add to it is 0.1 each.
    """
    asked = []

    def judge(step: Step, file: Path, layers: list[str]) -> Step:
        asked.append((file.name, len(layers)))
        share = size + 0.1 * (len(Fake.layers) - len(layers))
        drop = drops.get(file.stem, 9.0)
        refused = None if drop <= most and share < 0.95 else "it is worse"
        figures = {"drop": drop, "size_ratio": share, "time_ratio": 1.0, "refused": refused}
        return step.model_copy(update=figures)

    return judge, asked


def test_steps_become_gentler_until_one_holds():
    drops = {"minmax-0": 3.0, "percentile-0": 1.0, "entropy-0": 2.0, "mse-0": 1.5}
    for number, (held, name) in enumerate(
        [
            ("minmax-0", "minmax"),
            ("percentile-0", "percentile"),
            ("entropy-0", "entropy"),
            ("mse-0", "mse"),
            ("percentile-2", "ends in float"),
            ("percentile-3", "ends and 1 more in float"),
            ("percentile-4", "ends and 2 more in float"),
            ("percentile-6", "ends and 4 more in float"),
        ],
        start=1,
    ):
        fake = Fake()
        judge, asked = judge_by(drops | {held: 0.2})
        steps, file = escalate(fake, judge)
        assert (len(steps), file, steps[-1].step) == (number, Path(f"{held}.onnx"), name)
        assert [step.refused is not None for step in steps] == [True] * (number - 1) + [False]
        floats = int(held[-1])
        assert asked[-1] == (f"{held}.onnx", 7 - floats)
        expected = (*Fake.ends, "d", "b", "a", "e")[:floats]
        assert steps[-1].float_layers == expected
        # The search for sensitive layers takes time: only where it is needed.
        assert fake.ranked == (["percentile"] if floats > 2 else [])


def test_all_steps_are_on_record_where_none_holds():
    judge, _ = judge_by({"entropy-0": 0.9, "entropy-3": 0.7})
    told: list[str] = []
    steps, file = escalate(Fake(), judge, told.append)
    assert file is None
    assert told == [f"int8 by {step.step}: it is worse" for step in steps]
    assert [step.calibration for step in steps] == [
        "minmax",
        "percentile",
        "entropy",
        "mse",
        *["entropy"] * 4,
    ]
    assert all(step.refused for step in steps)
    line = summary([step.model_copy(update={"score": 90.0}) for step in steps], "top1")
    assert line.startswith("no int8 file, the best of 8 steps (ends and 1 more in float): 90.00 %")
    assert "-0.70 points" in line
    assert len(line.splitlines()) == 1


def test_a_step_that_fails_is_on_record_and_the_next_one_is_taken():
    judge, _ = judge_by({"percentile-0": 0.1})
    steps, file = escalate(Fake(minmax=RuntimeError("no such tensor\nand more")), judge)
    assert file == Path("percentile-0.onnx")
    assert steps[0].refused == "cannot be quantised: no such tensor"
    broken = {method: TypeError() for method in METHODS}
    steps, file = escalate(Fake(**broken), judge)
    assert (len(steps), file) == (4, None)
    assert "TypeError" in summary(steps, "top1")


def test_a_file_that_gains_nothing_ends_the_search():
    judge, asked = judge_by({}, size=1.1)
    assert escalate(Fake(), judge)[1] is None
    assert asked == [("minmax-0.onnx", 7)]


def test_integers_throughout_that_are_too_large_end_the_search():
    """Other ranges and other weights take as many bytes."""
    known, asked = judge_by({})

    def judge(step: Step, file: Path, layers: list[str]) -> Step:
        return known(step, file, layers).model_copy(update={"size_bytes": 320_000})

    assert escalate(Fake(can_distil=True), judge, most_kb=310.0)[1] is None
    assert asked == [("minmax-0.onnx", 7)]
    escalate(Fake(can_distil=True), judge, most_kb=320.0)
    assert len(asked) > 8


def test_training_comes_last_and_starts_from_the_best_ranges():
    judge, asked = judge_by({"percentile-0": 1.0, "percentile-distilled": 0.1})
    steps, file = escalate(Fake(can_distil=True), judge)
    assert (len(steps), file) == (9, Path("percentile-distilled.onnx"))
    assert asked[-1] == (file.name, len(Fake.layers))
    last = {"step": "quantisation-aware distillation", "calibration": "percentile"}
    assert steps[-1].to_json().items() >= {**last, "float_layers": [], "drop": 0.1}.items()


def test_layers_in_float_that_gain_nothing_leave_the_training():
    judge, asked = judge_by({}, size=0.7)
    assert escalate(Fake(can_distil=True), judge)[1] is None
    names = [f"{method}-0.onnx" for method in METHODS]
    later = ["minmax-2.onnx", "minmax-3.onnx", "minmax-distilled.onnx"]  # 0.9, 1.0, 0.7
    assert [name for name, _ in asked] == [*names, *later]


@pytest.mark.parametrize("ends", [("stem", "head"), ("stem", "a", "head")])
def test_a_network_of_few_layers_has_fewer_steps(ends):
    fake = Fake()
    fake.layers, fake.ends = ("stem", "a", "head"), ends
    steps, _ = escalate(fake, judge_by({})[0])
    assert len(steps) == (5 if len(ends) < 3 else 4)


def test_the_gate_weighs_the_loss_against_time_and_size(single, tmp_path):
    gate = single.gate(tmp_path, single.labels, int8_max_drop=0.5)
    for drop, time, size, reasons in (
        (0.0, 1.2, 0.3, []),
        (-2.0, 0.9, 1.1, []),
        (100.0 - 99.5, 1.0, 0.3, []),
        (100.0 * (1 - 199 / 200), 1.0, 0.3, []),  # one of 200 images: 0.50000000000000044
        (0.51, 0.5, 0.3, ["0.51 points of top1 are lost, 0.5 may be"]),
        (0.0, 0.96, 0.96, ["neither faster nor smaller"]),
    ):
        figures = {"drop": drop, "time_ratio": time, "size_ratio": size}
        assert gate._losses(MINMAX.model_copy(update=figures)) == reasons
    small = single.gate(tmp_path, single.labels, int8_max_kb=310)
    figures = {"drop": 0.0, "time_ratio": 0.5, "size_ratio": 0.3}
    for size_bytes, reasons in ((310_000, []), (357_197, ["it has 357 kB, 310 may be"])):
        step = MINMAX.model_copy(update={**figures, "size_bytes": size_bytes})
        assert small._losses(step) == reasons


def test_the_gate_refuses_a_file_that_answers_differently(single, published, tmp_path, monkeypatch):
    """One of its answers is made wrong, and every answer of the fp32 file is right."""
    monkeypatch.setattr(gate_module, "time_ratio", lambda *_: 0.8)
    right = probs_of_file(published[0], single.pixels).argmax(axis=1)
    strict = single.gate(tmp_path, right, int8_max_drop=0.0)
    strict.__dict__["reference"] = 100.0
    quantiser = Quantiser(single.file, single.pixels, tmp_path)
    step = strict.judge(MINMAX, published[0], quantiser.layers)
    assert step.refused is None
    assert "refused" not in step.to_json()
    assert (step.score, step.drop, step.time_ratio) == (100.0, 0.0, 0.8)
    ratio = published[0].stat().st_size / single.file.stat().st_size
    assert (step.size_bytes, step.size_ratio) == (published[0].stat().st_size, ratio)
    wrong = right.copy()
    wrong[0] = (wrong[0] + 1) % 3
    gate = single.gate(tmp_path, wrong, int8_max_drop=0.0)
    gate.__dict__["reference"] = 100.0
    step = gate.judge(MINMAX, published[0], quantiser.layers)
    points = 100.0 / len(right)
    assert step.drop == pytest.approx(points)
    assert step.refused == f"{points:.2f} points of top1 are lost, 0 may be"
    # A file in float is refused however well it answers.
    step = gate.judge(MINMAX, single.file, quantiser.layers)
    assert step.refused.startswith("it has no Q/DQ nodes; 5 of 5 layers")


def test_where_nothing_passes_there_is_no_file_and_the_record_says_why(
    single, tmp_path, monkeypatch
):
    def lossy(probs, labels, names, thresholds=None):
        """The fp32 file, asked for last, is right; all others are wrong."""
        exact = np.allclose(probs, reference, atol=1e-6)
        return {"top1": 100.0 if exact else 98.0}

    reference = probs_of_file(single.file, single.pixels)
    monkeypatch.setattr(gate_module, "score", lossy)
    monkeypatch.setattr(int8_steps, "METHODS", ("minmax", "percentile"))
    options = (single.pixels, (single.pixels, single.labels), ExportConfig(int8_max_drop=1.0))
    found = export_int8(single.file, tmp_path / "m.onnx", *options)
    record = found.to_json()
    assert list(tmp_path.iterdir()) == []
    later = [f"ends and {count} more in float" for count in (1, 2)]
    names = ["minmax", "percentile", "ends in float", *later]
    assert [step["step"] for step in record["steps"]] == names
    assert {step["drop"] for step in record["steps"]} == {2.0}
    assert all("2.00 points of top1 are lost" in step["refused"] for step in record["steps"])
    floats = [len(step["float_layers"]) for step in record["steps"]]
    assert floats == [0, 0, 2, 3, 4]
    sizes = [step["size_bytes"] for step in record["steps"]]
    assert sizes[0] < sizes[4]
    assert "thresholds" not in record
    json.dumps(record, allow_nan=False)
    assert "no int8 file" in summary(found.steps, found.score)


def test_thresholds_that_cannot_be_had_refuse_a_file(single, published, tmp_path, monkeypatch):
    monkeypatch.setattr(gate_module, "time_ratio", lambda *_: 0.8)
    wrong = (probs_of_file(published[0], single.pixels).argmax(axis=1) + 1) % 3
    options = {"thresholds": "accuracy", "min_accuracy": 90.0, "int8_max_drop": 100.0}
    gate = single.gate(tmp_path, wrong, **options)
    with pytest.raises(UserError):
        gate.publication(published[0])
    layers = Quantiser(single.file, single.pixels, tmp_path).layers
    assert "90 % accuracy is not shown" in gate.judge(MINMAX, published[0], layers).refused


def test_times_are_of_the_calls_that_nothing_disturbed(monkeypatch):
    """fp32 takes 40 units, int8 10; most calls take much longer, as something else runs."""
    clock = itertools.count()
    now, units = [0], {Path("int8"): 10, Path("fp32"): 40}

    class Session:
        def __init__(self, path: Path, threads: int) -> None:
            self.path = path

        def run(self, outputs, feeds):
            assert feeds["image"].shape == (1, 4, 4, 3)
            now[0] += units[self.path] + (0 if next(clock) % 3 == 0 else 1000)

    monkeypatch.setattr(latency, "open_session", Session)
    monkeypatch.setattr(threads, "perf_counter_ns", lambda: now[0])
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    assert time_ratio(Path("int8"), Path("fp32"), pixels, threads=1) == 0.25


def test_description_is_replaced_not_added_to(single):
    model = onnx.load(single.file)
    describe(model, {"names": ["x"]})
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("names", '["x"]')]


def test_a_network_that_resizes_for_itself_is_quantised(data, ship_briefly, tmp_path):
    """An unknown width of 0 emptied what normalisation multiplies by, and no int8 was made."""

    def resize(classifier: Classifier) -> None:
        classifier.contract = classifier.contract.model_copy(update={"input_size": 24})

    file, pixels, classifier = ship_briefly(data, tmp_path, change=resize)
    quantiser = Quantiser(file, pixels, tmp_path)
    before, after = (probs_of_file(path, pixels) for path in (file, quantiser.quantise("minmax")))
    assert (before.argmax(axis=1) == after.argmax(axis=1)).mean() > 0.9
    assert classifier.contract.input_size == 24


@pytest.mark.parametrize("how", ["error", "by a library's own error"])
def test_a_full_temporary_disk_is_no_verdict(single, tmp_path, monkeypatch, how):
    """It read `cannot be quantised`, with status 0, and the repeat `done before, kept`."""

    def full(*arguments: object, **options: object) -> None:
        if how == "error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")
        raise RuntimeError("write failed")

    monkeypatch.setattr(Quantiser, "quantise", full)
    if how != "error":
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises((OSError, NoSpace), match=r"[Nn]o space left"):
        single.export(tmp_path / "int8.onnx")


def test_an_error_of_the_quantisers_is_a_verdict(single, tmp_path, monkeypatch):
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("unsupported")

    monkeypatch.setattr(Quantiser, "quantise", fails)
    monkeypatch.setattr(Quantiser, "by_sensitivity", lambda self, method: [])
    record = single.export(tmp_path / "int8.onnx")
    assert all("cannot be quantised: unsupported" in step["refused"] for step in record["steps"])

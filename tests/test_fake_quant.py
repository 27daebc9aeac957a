"""Training a quantised file: rounded as it will run, by the one loop, for where rounding fails."""

import copy
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from distill.config import (
    ExportConfig,
    ModelConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
    ViewsConfig,
)
from distill.data.decode import InputSpec
from distill.data.store import Split
from distill.errors import UserError
from distill.export.int8 import gate as gate_module
from distill.export.int8 import steps as int8_steps
from distill.export.int8.calibration import closest_range
from distill.export.int8.fake_quant import FakeQuantised, Range, closest_ends
from distill.export.int8.gate import export_int8
from distill.export.int8.quantiser import Quantiser
from distill.export.int8.torch_graph import torch_op
from distill.export.onnx_file import probs_of_file
from distill.export.onnx_fp32 import export_onnx
from distill.models.classifier import Classifier, Contract, build_classifier
from distill.progress import Progress
from distill.training.fit import fit
from distill.training.job import Job
from distill.training.run_directory import load_weights

QUIET = Progress(quiet=True)
CPU = torch.device("cpu")


def in_unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def probs_of(network: nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(in_unit(pixels)).softmax(dim=1).numpy()


@pytest.fixture(scope="module", params=[2, 4], ids=["normalised", "pixels"])
def shipped(request, data, ship_briefly, tmp_path_factory):
    """A trained file, its images, and its quantised and float models.

    One whose first layer takes normalised images, and one whose first layer takes pixels.
    """
    folder = tmp_path_factory.mktemp("shipped")
    file, pixels, _ = ship_briefly(data, folder, stride=[request.param, 2])
    quantiser = Quantiser(file, pixels, folder)
    quantised = onnx.load(quantiser.quantise("mse"))
    return quantiser, pixels, quantised, onnx.load(quantiser.prepared)


def test_the_closest_range_clips_an_outlier_and_keeps_what_is_spread():
    # 10,000 values up to 1, and one of 100.
    edges = np.linspace(-100, 100, 20_001)
    counts = np.zeros(20_000, np.int64)
    counts[10_000:10_100] = 100
    spread = closest_range(counts, edges, 0.0, 1.0)
    assert spread == (0.0, 1.0)
    counts[-1] = 1
    low, high = closest_range(counts, edges, 0.0, 100.0)
    # Rounding costs at most (100 / 255)² / 12 = 0.013 each, 128 in all; clipping to 85 would cost
    # 225.
    assert (low, high) == (0.0, 100.0)
    counts[10_000:10_100] = 10_000_000
    low, high = closest_range(counts, edges, 0.0, 100.0)
    assert low == 0.0
    # Rounding to steps of 100 / 255 would cost 1e9 * 0.39² / 12, clipping all that is spread at
    # most 99²: the outlier goes.
    assert high < 3.0


def test_both_ends_of_a_range_move_on_their_own():
    edges = np.linspace(-8, 8, 8193)
    centres = (edges[1:] + edges[:-1]) / 2
    counts = np.where((centres > -1) & (centres < 4), 1000, 0)
    counts[0] = 1  # -8
    low, high = closest_range(counts, edges, -8.0, 4.0)
    assert -1.6 < low < -0.9
    assert 3.8 < high <= 4.0


def test_the_closest_ends_of_a_batch_are_those_of_the_least_error():
    torch.manual_seed(0)
    values = torch.cat([torch.randn(4000).abs(), torch.tensor([30.0])])
    low, high = closest_ends(values)

    def error(end: float) -> float:
        scale = end / 255
        rounded = (values / scale).round().clamp(0, 255) * scale
        return float((rounded - values).square().mean())

    assert float(low) == 0.0
    tried = [30.0 * 0.9**i for i in range(25)]
    assert float(high) == pytest.approx(min(tried, key=error))
    assert closest_ends(torch.zeros(5))[1] > 0  # nothing to round is no division by zero


def test_a_range_of_a_relu_stays_at_zero_and_moves_slowly():
    of_relu, signed = Range(0.1, 0), Range(0.1, 100)
    assert of_relu.ends.tolist() == pytest.approx([0.0, 25.5])
    assert signed.ends.tolist() == pytest.approx([-10.0, 15.5])
    values = torch.linspace(-20, 20, 999)
    of_relu.observe([values, values / 2])
    signed.observe([values])
    # A twentieth of the way to 20, or to -20 and 20.
    assert of_relu.ends.tolist() == pytest.approx([0.0, 25.5 + 0.05 * (20 - 25.5)])
    assert signed.ends.tolist() == pytest.approx([-10.5, 15.5 + 0.05 * 4.5])
    rounded = of_relu(torch.tensor([-3.0, 0.04, 1.0, 99.0]))
    scale = float(of_relu.ends[1]) / 255
    expected = [0.0, 0.0, round(1 / scale) * scale, 255 * scale]
    assert rounded.tolist() == pytest.approx(expected, abs=1e-5)


def test_it_answers_as_the_integer_file_does(shipped, tmp_path):
    quantiser, pixels, quantised, source = shipped
    network = FakeQuantised(quantised, source, 0)
    file = tmp_path / "int8.onnx"
    onnx.save(quantised, file)
    expected, in_float = probs_of_file(file, pixels), probs_of_file(quantiser.source, pixels)
    found = probs_of(network, pixels)
    # Sums of integers are exact and those of floats are not: a few values are rounded otherwise.
    assert np.abs(found - expected).mean() < 0.1 * np.abs(in_float - expected).mean()
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert tuple(network.names) == quantiser.layers


def test_it_learns_at_the_scale_of_those_who_teach_it(shipped):
    """A file divides logits by a temperature, and teachers do not."""
    _, pixels, quantised, source = shipped
    images = in_unit(pixels[:4])
    as_shipped = FakeQuantised(quantised, source, 0).eval()
    at_two = FakeQuantised(quantised, source, 0, 2.0).eval()
    with torch.no_grad():
        torch.testing.assert_close(at_two(images), 2.0 * as_shipped(images))
    for one, other in zip(
        *(network.written_into(source).graph.initializer for network in (as_shipped, at_two)),
        strict=True,
    ):
        assert one == other


def test_what_was_not_trained_is_written_as_it_was(shipped, tmp_path):
    quantiser, pixels, quantised, _ = shipped

    def untrained(quantised, source):
        network = FakeQuantised(quantised, source, 0)
        return network.written_into(source), network.ends()

    again = Quantiser(quantiser.source, quantiser.pixels, tmp_path, untrained)
    file = tmp_path / "int8.onnx"
    onnx.save(quantised, file)
    found = probs_of_file(again.distilled("mse"), pixels)
    np.testing.assert_allclose(found, probs_of_file(file, pixels), atol=1e-6)


def test_weights_and_maps_are_written_together(shipped, tmp_path):
    """`mean(cam) + bias == logits` holds of the trained file too, whose maps have own weights."""
    _, pixels, quantised, source = shipped
    network = FakeQuantised(quantised, source, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.25)
    written = network.written_into(source)
    onnx.checker.check_model(written, full_check=True)
    file = tmp_path / "float.onnx"
    onnx.save(written, file)
    prob, cam = ort.InferenceSession(file).run(["prob", "cam"], {"image": pixels})
    bias = network.layers[-1].bias.detach().numpy()
    logits = torch.from_numpy(cam.mean(axis=(2, 3)) + bias)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), prob, atol=1e-5)
    before = tmp_path / "before.onnx"
    onnx.save(source, before)
    assert np.abs(probs_of_file(before, pixels) - prob).max() > 0.01


@pytest.mark.parametrize(
    ("name", "options"),
    [("torchvision/squeezenet1_1", {}), ("squeeze", {"fires": 5}), ("baseline_cnn", {})],
)
def test_other_networks_answer_alike_too(name, options, tmp_path):
    """Concatenations and pooling that share a range, flattening, shapes that are computed."""
    torch.manual_seed(0)
    spec, names = InputSpec(height=32, width=32), ("a", "b", "c")
    classifier = build_classifier(ModelConfig(name=name, options=options), names, spec).eval()
    blocks = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=1).repeat(8, axis=2)
    metadata = {"names": names, "task": "single", "thresholds": {}}
    metadata |= {"input_spec": spec.model_dump()}
    export_onnx(classifier, tmp_path / "m.onnx", metadata, pixels)
    quantiser = Quantiser(tmp_path / "m.onnx", pixels, tmp_path)
    file = quantiser.quantise("minmax")
    network = FakeQuantised(onnx.load(file), onnx.load(quantiser.prepared), 0)
    np.testing.assert_allclose(probs_of(network, pixels), probs_of_file(file, pixels), atol=0.01)
    assert tuple(network.names) == quantiser.layers


IMAGE = (2, 4, 7, 6)


@pytest.mark.parametrize(
    ("kind", "shapes", "ints", "attributes"),
    [
        ("Add", [IMAGE, (1, 4, 1, 1)], [], {}),
        ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2]}),
        ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Clip", [IMAGE, (), ()], [], {}),
        ("Concat", [IMAGE, IMAGE], [], {"axis": 1}),
        ("Conv", [IMAGE, (6, 2, 3, 3), (6,)], [], {"group": 2, "pads": [0, 1, 2, 1]}),
        ("Conv", [IMAGE, (6, 4, 3, 3)], [], {"strides": [2, 1], "dilations": [1, 2]}),
        ("Flatten", [IMAGE], [], {"axis": 1}),
        ("Gather", [IMAGE], [[[3, 0], [1, 1]]], {"axis": 1}),
        ("Gemm", [(2, 5), (3, 5), (3,)], [], {"transB": 1}),
        ("Gemm", [(2, 5), (5, 3), (3,)], [], {}),
        ("GlobalAveragePool", [IMAGE], [], {}),
        ("HardSigmoid", [IMAGE], [], {"alpha": 0.3}),
        ("HardSwish", [IMAGE], [], {}),
        ("LeakyRelu", [IMAGE], [], {"alpha": 0.2}),
        ("MatMul", [(2, 5), (5, 3)], [], {}),
        ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        ("ReduceMean", [IMAGE], [[2, 3]], {"keepdims": 0}),
        ("Reshape", [IMAGE], [[0, -1]], {}),
        ("Shape", [IMAGE], [], {"start": 1, "end": 3}),
        ("Squeeze", [(2, 1, 3, 1)], [[1, 3]], {}),
        ("Transpose", [IMAGE], [], {"perm": [0, 2, 3, 1]}),
        ("Unsqueeze", [IMAGE], [[0, 2]], {}),
    ],
)
def test_operators_compute_what_onnxruntimes_do(kind, shapes, ints, attributes):
    rng = np.random.default_rng(0)
    floats = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    if kind == "Clip":
        floats[1:] = [np.float32(-0.5), np.float32(0.5)]
    values = [np.asarray(one) for one in (*floats, *(np.array(given) for given in ints))]
    names = [f"input{number}" for number in range(len(values))]
    node = onnx.helper.make_node(kind, names, ["y"], **attributes)
    given = onnx.helper.make_tensor_value_info("input0", onnx.TensorProto.FLOAT, values[0].shape)
    type_ = onnx.TensorProto.INT64 if kind == "Shape" else onnx.TensorProto.FLOAT
    result = onnx.helper.make_tensor_value_info("y", type_, None)
    constants = dict(zip(names[1:], values[1:], strict=True))
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = onnx.helper.make_graph([node], "g", [given], [result], stored)
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"input0": values[0]})[0]
    found = torch_op(node, constants)(*map(torch.from_numpy, values))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_an_operator_that_cannot_be_trained_through_is_named():
    node = onnx.helper.make_node("GridSample", ["x", "grid"], ["y"], "sample")
    with pytest.raises(UserError, match="GridSample"):
        torch_op(node, {})
    uneven = {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}
    with pytest.raises(UserError, match="uneven"):
        torch_op(onnx.helper.make_node("AveragePool", ["x"], ["y"], **uneven), {})


def test_gradients_flow_and_ranges_stay_after_a_while(shipped):
    _, pixels, quantised, source = shipped
    network = FakeQuantised(quantised, source, 2).train()
    images = in_unit(pixels[:16])
    network(images).square().sum().backward()
    assert len(list(network.parameters())) == 2 * len(network.layers)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    seen = [network.ends()]
    for _ in range(3):
        network(images * 0.5)
        seen.append(network.ends())
    assert seen[0] != seen[1]
    assert seen[1] == seen[2] == seen[3]
    network.eval()(images)
    fresh = FakeQuantised(quantised, source, 2)
    start = fresh.ends()
    fresh.eval()(images)
    assert fresh.ends() == start
    # What a resume needs is in the state: ranges, and how often they have moved.
    fresh.load_state_dict(copy.deepcopy(network.state_dict()))
    assert (fresh.ends(), int(fresh.seen)) == (network.ends(), 2)


def test_no_step_waits_for_a_gpu(shipped, monkeypatch):
    """The best range and the count of batches were read back at every step.

    On the meta device reading a number is an error; the count is read once, before. Rounding, which
    meta has not, is left out.
    """
    for name in ("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine"):
        monkeypatch.setattr(torch, name, lambda values, *_: values * 1.0)
    _, pixels, quantised, source = shipped
    network = FakeQuantised(quantised, source, 3).train()
    network(in_unit(pixels[:4]))
    network.to("meta")
    for _ in range(3):
        network(torch.empty(4, 3, *pixels.shape[1:3], device="meta")).sum().backward()


def spoil(classifier: Classifier) -> None:
    """Gives each inner layer huge weights on a channel that is always 0.

    They change nothing in float, and leave one step of the layer's scale to all other weights.
    """
    blocks = classifier.network.blocks
    with torch.no_grad():
        for here, after in zip(blocks, list(blocks)[1:], strict=False):
            for norm in (m for m in here.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.weight[0], norm.bias[0] = 0.0, -1.0
            wide = after.wide if hasattr(after, "wide") else after
            weight = wide[0].weight
            weight[:, 0] = 60 * weight.abs().amax(dim=(1, 2, 3))[:, None, None]


def test_what_no_calibration_passes_is_learned(data, ship_briefly, tmp_path, monkeypatch):
    """KD_Lib's quantisation-aware training never updates the weights; here they learn to be few."""
    file, pixels, classifier = ship_briefly(data, tmp_path, 40, spoil)
    labels = data.train.labels
    shown = Split("val", pixels, labels, data.train.names)
    data = replace(data, splits={**data.splits, "val": shown})
    config = RunConfig(
        name="student-int8",
        model=ModelConfig(name="compact"),
        strategy=StrategyConfig.model_validate({"name": "vanilla", "kd_weight": 1.0}),
        train=TrainConfig(epochs=60, lr=2e-3, batch_size=16, weight_decay=0.0, warmup_epochs=0.0),
    )
    job = Job(config, data, ViewsConfig(), 0, tmp_path / "run", teachers=[classifier])
    moved = []

    def distil(quantised, source):
        network = FakeQuantised(quantised, source, 120)
        before = [layer.weight.detach().clone() for layer in network.layers]
        contract = {"input_spec": data.spec, "input_size": 32, "names": data.classes}
        contract |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        trained = Classifier(network, Contract(**contract))
        fit(trained, job, CPU, QUIET)
        load_weights(trained, job.folder / "best.safetensors")
        pairs = zip(before, network.layers, strict=True)
        moved.extend(float((layer.weight - old).detach().abs().max()) for old, layer in pairs)
        return network.written_into(source), network.ends()

    monkeypatch.setattr(gate_module, "time_ratio", lambda *_: 0.8)
    monkeypatch.setattr(int8_steps, "SENSITIVE", ())
    options = (pixels, (pixels, labels), ExportConfig(int8_max_drop=5.0), 1, distil)
    record = export_int8(file, tmp_path / "int8.onnx", *options).to_json()
    refused, last = record["steps"][:-1], record["steps"][-1]
    names = ["minmax", "percentile", "entropy", "mse", "ends in float"]
    assert [row["step"] for row in refused] == names
    assert all(row["drop"] > 5.0 for row in refused)
    assert last["step"] == "quantisation-aware distillation"
    assert last["drop"] <= 5.0
    assert last["float_layers"] == []
    assert "refused" not in last
    assert all(change > 1e-3 for change in moved)
    assert (tmp_path / "int8.onnx").is_file()

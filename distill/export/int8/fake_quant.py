"""The network behind a quantised file, to be trained as it will run: in float, rounded as integers.

Its graph is the file's own, so weights and activations are rounded exactly where the file has Q/DQ
nodes. Rounding passes gradients on as they are, and clipping passes on none (Jacob et al., 2018,
arXiv:1712.05877, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from distill.export.int8.torch_graph import Op, attributes_of, torch_op
from distill.export.onnx_graph import LAYERS, drop_unused, leading_to

LARGEST = 64  # of a weight of 7 bits, see `qdq`
STEPS = 255  # of an activation
MOMENTUM = 0.05  # what a batch moves a range by
SAMPLE = 4096  # activations of a batch that the closest range is sought for
SHRINKING, NUM_SHARES = 0.9, 25  # a range may end at these powers of it, shares of the extremes
Constants = dict[str, NDArray[Any]]


class Step(NamedTuple):
    """A node: what it does to which values. A layer's weights come from the layer."""

    op: Op
    inputs: list[str]
    outputs: list[str]
    layer: int | None = None
    range: int | None = None


class Layer(nn.Module):
    """Weights of a convolution or linear layer, symmetric, with a scale per output channel.

    Args:
        axis: Of the output channels.
    """

    def __init__(self, weight: NDArray[Any], bias: NDArray[Any] | None, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias.copy()))

    def forward(self) -> list[Tensor]:
        """Weights, rounded, and the bias, which the file has in 32 bits."""
        others = [axis for axis in range(self.weight.ndim) if axis != self.axis]
        scale = self.weight.detach().abs().amax(dim=others).clamp(min=1e-12) / LARGEST
        zero = torch.zeros_like(scale, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(
            self.weight, scale, zero, self.axis, -LARGEST, LARGEST
        )
        return [rounded] if self.bias is None else [rounded, self.bias]


class Range(nn.Module):
    """The range of the activations that share one, and their rounding to it.

    Args:
        scale, zero_point: Where it starts. A range from 0 stays one: it may be all that is left of
            a ReLU.
    """

    ends: Tensor

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        ends = [-zero_point * scale, (STEPS - zero_point) * scale]
        self.register_buffer("ends", torch.tensor(ends))
        self.from_zero = zero_point == 0

    def forward(self, values: Tensor) -> Tensor:
        """Values of any shape, rounded and clipped."""
        scale = (self.ends[1] - self.ends[0]) / STEPS
        zero = (-self.ends[0] / scale).round().to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, STEPS)

    @torch.no_grad()
    def observe(self, several: list[Tensor]) -> None:
        """Moves a little towards the range that is closest to what a batch gave."""
        ranges = [closest_ends(v.clamp(min=0) if self.from_zero else v) for v in several]
        low, high = (torch.stack(ends) for ends in zip(*ranges, strict=True))
        self.ends.lerp_(torch.stack([low.min(), high.max()]), MOMENTUM)


def closest_ends(values: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the range whose steps are closest to values of any shape, in the squared mean.

    It is the range of all values and 0, or a share of that.
    """
    low, high = values.min().clamp(max=0), values.max().clamp(min=1e-6)
    sample = values.flatten()[:: max(1, values.numel() // SAMPLE)]
    steps = torch.arange(NUM_SHARES, device=values.device, dtype=values.dtype)
    shares = torch.pow(SHRINKING, steps)[:, None]
    scale = (high - low) * shares / STEPS  # (shares, 1)
    first = (low * shares / scale).round()
    levels = torch.minimum((sample / scale).round().maximum(first), first + STEPS)
    errors = (levels * scale - sample).square().sum(dim=1)
    best = shares[:, 0].take(errors.argmin())  # a tensor still: nobody waits for a GPU
    return low * best, high * best


class FakeQuantised(nn.Module):
    """Images `(batch, 3, height, width)` in [0, 1] to logits, times a temperature, as of a file.

    Ranges move with the activations for the first `observed` batches in training mode; from then
    on, and in evaluation mode, they stay.

    Args:
        quantised: A file with Q/DQ nodes, which says where to round and where ranges start.
        source: The float model it was made from, which has the weights.
        temperature: That the file divides logits by, and those who teach it do not.

    Raises:
        UserError: An operator that there is no training through.
    """

    seen: Tensor

    def __init__(
        self,
        quantised: onnx.ModelProto,
        source: onnx.ModelProto,
        observed: int,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.observed, self.temperature = observed, temperature
        self.layers, self.ranges = nn.ModuleList(), nn.ModuleList()
        self.names: list[str] = []  # of the layers
        self.groups: dict[str, int] = {}  # number of the range of each rounded activation
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._seen: int | None = None  # the same in the host's memory; None before it was read
        self.register_load_state_dict_post_hook(_forget_count)  # type: ignore[no-untyped-call]
        graph = quantised.graph
        self.logits = next(node.input[0] for node in graph.node if "prob" in node.output)
        constants, axes = fixed_values(graph)
        needed = leading_to(graph, [self.logits])
        path = [n for n in graph.node if needed & set(n.output) and n.output[0] not in constants]
        self.steps = list[Step]()
        for node in path:
            if node.op_type == "QuantizeLinear":
                self.steps.append(self._rounding(node, constants))
                continue
            # "" is an input left out.
            inputs = [name for name in node.input if name]
            step = Step(torch_op(node, constants), inputs, list(node.output))
            if node.op_type in LAYERS and node.input[1] in axes:
                step = step._replace(inputs=inputs[:1], layer=len(self.layers))
                self.layers.append(_layer(source.graph, node.name, axes[node.input[1]]))
                self.names.append(node.name)
            self.steps.append(step)
        used = {name for step in self.steps for name in step.inputs if name in constants}
        self.constants = {name: f"constant_{number}" for number, name in enumerate(sorted(used))}
        for name, buffer in self.constants.items():
            self.register_buffer(buffer, torch.from_numpy(constants[name].copy()), persistent=False)

    def _rounding(self, node: onnx.NodeProto, constants: Constants) -> Step:
        """The step of a Q node, whose range others may share."""
        start = Range(float(constants[node.input[1]]), int(constants[node.input[2]]))
        others = enumerate(cast(Range, other).ends for other in self.ranges)
        same = [number for number, ends in others if start.ends.equal(ends)]
        if not same:
            self.ranges.append(start)
        number = same[0] if same else len(self.ranges) - 1
        self.groups[node.input[0]] = number
        return Step(self.ranges[number], [node.input[0]], list(node.output), range=number)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(batch, num_classes)`, as they were before the temperature."""
        moving = self.training and self._count() < self.observed
        values = {name: getattr(self, buffer) for name, buffer in self.constants.items()}
        values["image"] = images.permute(0, 2, 3, 1) * 255.0
        met: dict[int, list[Tensor]] = defaultdict(list)
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if step.layer is not None:
                inputs += self.layers[step.layer]()
            if step.range is not None and moving:
                met[step.range].append(inputs[0].detach())
            output = step.op(*inputs)
            outputs = output if isinstance(output, tuple) else (output,)
            values.update(zip(step.outputs, outputs, strict=True))
        for number, several in met.items():
            cast(Range, self.ranges[number]).observe(several)
        if moving:
            self.seen += 1
            self._seen = self._count() + 1
        return cast(Tensor, values[self.logits] * self.temperature)

    def _count(self) -> int:
        """Batches seen in training mode; the device is waited for once, not at every step."""
        if self._seen is None:
            self._seen = int(self.seen)
        return self._seen

    def ends(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each rounded activation, by name."""
        ends = [cast(Range, module).ends.tolist() for module in self.ranges]
        return {name: (ends[number][0], ends[number][1]) for name, number in self.groups.items()}

    def written_into(self, source: onnx.ModelProto) -> onnx.ModelProto:
        """A copy of the float model with the weights as they are now.

        Those of the activation maps are the last layer's, see `graph`.
        """
        written = onnx.ModelProto()
        written.CopyFrom(source)
        nodes = {node.name: node for node in written.graph.node}
        for name, module in zip(self.names, self.layers, strict=True):
            layer = cast(Layer, module)
            _set_input(written.graph, nodes[name], 1, layer.weight)
            if layer.bias is not None:
                _set_input(written.graph, nodes[name], 2, layer.bias)
        maps = next((node for node in written.graph.node if "cam" in node.output), None)
        if maps is not None:
            weight = cast(Layer, self.layers[-1]).weight
            rows = weight if attributes_of(nodes[self.names[-1]]).get("transB") else weight.T
            _set_input(written.graph, maps, 1, rows[:, :, None, None])
        drop_unused(written.graph)
        return written


def _forget_count(network: nn.Module, keys: object) -> None:
    """Lets a network whose state was loaded read its count anew."""
    network._seen = None  # type: ignore[assignment]


def fixed_values(graph: onnx.GraphProto) -> tuple[Constants, dict[str, int]]:
    """Values that do not depend on the image, by name; and the axis of scales that are several."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    axes = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            stored, scale, *zeros = (values[name] for name in node.input)
            shape = [1] * stored.ndim
            if scale.ndim:
                axes[node.output[0]] = attributes_of(node).get("axis", 1)
                shape[axes[node.output[0]]] = -1
            level = stored.astype(np.float32)
            for zero in zeros:  # none where it is 0, see `trim`
                level -= zero.reshape(shape).astype(np.float32)
            values[node.output[0]] = np.asarray(level * scale.reshape(shape))
    return values, axes


def _layer(source: onnx.GraphProto, name: str, axis: int) -> Layer:
    """The layer of that name, with its weights in float."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.initializer}
    node = next(node for node in source.node if node.name == name)
    bias = weights[node.input[2]] if len(node.input) > 2 else None
    return Layer(weights[node.input[1]], bias, axis)


def _set_input(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, value: Tensor) -> None:
    """Gives a node a constant of its own: several may have shared the one that it had."""
    name = f"{node.name}.{place}"
    graph.initializer.append(numpy_helper.from_array(value.detach().cpu().numpy(), name))
    node.input[place] = name

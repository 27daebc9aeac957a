"""The operators of an ONNX graph as functions of tensors, through which gradients flow.

Those that convolutional students are exported to; the names are ONNX's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distill.errors import UserError

Op = Callable[..., Any]
Attributes = dict[str, Any]
Constants = list[NDArray[Any] | None]

UNTRAINED = "do without it: export.int8_qad_epochs=0"  # training to be rounded


def torch_op(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> Op:
    """A function from the inputs of a node to its output.

    Args:
        constants: Inputs that never change, by name: axes and limits are taken from here.

    Raises:
        UserError: There is no such operator here, or not in this form.
    """
    build = BUILDERS.get(node.op_type)
    if build is None:
        raise UserError(f"no training through the operator {node.op_type}", node.name, UNTRAINED)
    return build(attributes_of(node), [constants.get(name) for name in node.input])


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """The attributes of a node, by name."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _simple(function: Op) -> Callable[[Attributes, Constants], Op]:
    """The builder of an operator that is a function of its inputs and nothing else."""
    return lambda attributes, constants: function


def _ints(attributes: Attributes, constants: Constants, name: str, place: int) -> list[int] | None:
    """A list that is an attribute in some versions of an operator and an input in others."""
    if name in attributes:
        return list(attributes[name])
    constant = constants[place] if place < len(constants) else None
    return None if constant is None else [int(value) for value in np.atleast_1d(constant)]


def _padded(attributes: Attributes, fill: float) -> tuple[Op, list[int]]:
    """What must be padded beforehand, as it is not alike at both ends, and what may stay."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError("no training through convolutions with auto_pad", "export.path", UNTRAINED)
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    if pads[:2] == pads[2:]:
        return (lambda x: x), pads[:2]
    top, left, bottom, right = pads
    return (lambda x: F.pad(x, [left, right, top, bottom], value=fill)), [0, 0]


def _conv(attributes: Attributes, constants: Constants) -> Op:
    pad, padding = _padded(attributes, 0.0)
    options = {
        "stride": attributes.get("strides", [1, 1]),
        "dilation": attributes.get("dilations", [1, 1]),
        "groups": attributes.get("group", 1),
        "padding": padding,
    }
    return lambda x, weight, bias=None: F.conv2d(pad(x), weight, bias, **options)


def _max_pool(attributes: Attributes, constants: Constants) -> Op:
    pad, padding = _padded(attributes, -torch.inf)
    options = {
        "kernel_size": attributes["kernel_shape"],
        "stride": attributes.get("strides", [1, 1]),
        "dilation": attributes.get("dilations", [1, 1]),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
        "padding": padding,
    }
    return lambda x: F.max_pool2d(pad(x), **options)


def _average_pool(attributes: Attributes, constants: Constants) -> Op:
    pad, padding = _padded(attributes, 0.0)
    counted = bool(attributes.get("count_include_pad", 0))
    if any(attributes.get("pads", [])) and not any(padding) and not counted:
        raise UserError(
            "no training through an average of uneven borders", "export.path", UNTRAINED
        )
    options = {
        "kernel_size": attributes["kernel_shape"],
        "stride": attributes.get("strides", [1, 1]),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
        "count_include_pad": counted,
        "padding": padding,
    }
    return lambda x: F.avg_pool2d(pad(x), **options)


def _gemm(attributes: Attributes, constants: Constants) -> Op:
    if attributes.get("transA") or {attributes.get(n, 1.0) for n in ("alpha", "beta")} != {1.0}:
        raise UserError("no training through a scaled or transposed Gemm", "export.path", UNTRAINED)
    turned = bool(attributes.get("transB", 0))
    return lambda x, weight, bias=None: F.linear(x, weight if turned else weight.T, bias)


def _clip(attributes: Attributes, constants: Constants) -> Op:
    ends = [None if end is None else float(end) for end in [*constants[1:], None, None][:2]]
    return lambda x, *limits: x.clamp(*ends)


def _mean(attributes: Attributes, constants: Constants) -> Op:
    axes, keep = _ints(attributes, constants, "axes", 1), bool(attributes.get("keepdims", 1))
    return lambda x, *inputs: x.mean(dim=axes, keepdim=keep)


def _reshape(attributes: Attributes, constants: Constants) -> Op:
    shape = _ints(attributes, constants, "shape", 1)

    def reshape(x: Tensor, shape_input: Tensor) -> Tensor:
        sizes = shape_input.tolist() if shape is None else shape
        return x.reshape([size or x.shape[i] for i, size in enumerate(sizes)])  # 0 keeps a size

    return reshape


def _shape(attributes: Attributes, constants: Constants) -> Op:
    part = slice(attributes.get("start", 0), attributes.get("end"))
    return lambda x: torch.tensor(x.shape[part], device=x.device)


def _gather(attributes: Attributes, constants: Constants) -> Op:
    axis = attributes.get("axis", 0)

    def gather(x: Tensor, ids: Tensor) -> Tensor:
        picked = x.index_select(axis, ids.flatten())
        return picked.reshape(*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :])

    return gather


def _unsqueeze(attributes: Attributes, constants: Constants) -> Op:
    axes = _ints(attributes, constants, "axes", 1) or []

    def unsqueeze(x: Tensor, *inputs: Tensor) -> Tensor:
        for axis in axes:
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _squeeze(attributes: Attributes, constants: Constants) -> Op:
    axes = _ints(attributes, constants, "axes", 1)
    return lambda x, *inputs: x.squeeze() if axes is None else x.squeeze(tuple(axes))


BUILDERS: dict[str, Callable[[Attributes, Constants], Op]] = {
    "Add": _simple(torch.add),
    "AveragePool": _average_pool,
    "Cast": _simple(lambda x: x),  # everything here is a float already
    "Clip": _clip,
    "Concat": lambda attributes, _: lambda *parts: torch.cat(parts, dim=attributes["axis"]),
    "Conv": _conv,
    "DequantizeLinear": _simple(lambda x, *_: x),
    "Div": _simple(torch.div),
    "Flatten": lambda attributes, _: lambda x: x.flatten(attributes.get("axis", 1)),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _simple(lambda x: x.mean(dim=(2, 3), keepdim=True)),
    "HardSigmoid": lambda attributes, _: (
        lambda x: (x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)).clamp(0.0, 1.0)
    ),
    "HardSwish": _simple(F.hardswish),
    "Identity": _simple(lambda x: x),
    "LeakyRelu": lambda attributes, _: lambda x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "MatMul": _simple(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _simple(torch.mul),
    "Range": _simple(lambda *ends: torch.arange(*ends, device=ends[1].device)),
    "ReduceMean": _mean,
    "Relu": _simple(F.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _simple(torch.sigmoid),
    "Squeeze": _squeeze,
    "Sub": _simple(torch.sub),
    "Transpose": lambda attributes, _: lambda x: x.permute(*attributes["perm"]),
    "Unsqueeze": _unsqueeze,
}

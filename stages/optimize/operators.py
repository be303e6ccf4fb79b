"""The operators of exported graphs, in torch, where their weights can be trained.

Names, attributes and defaults are those of https://onnx.ai/onnx/operators. An operator that is
missing here is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attar.pipeline.core.errors import StageError


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator; an input that is left out is an empty name."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def make_refusal(self, attribute: str) -> StageError:
        value = self.attributes.get(attribute)
        said = value.decode() if isinstance(value, bytes) else value
        return StageError(
            f"{self.operator} {self.name!r} with {attribute} = {said!r} cannot be tuned: set "
            "tuning_epochs = 0, "
            "or write the layer in another way"
        )


def fake_quantize(x: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Return ``scale * clip(round(x / scale), low, high)``, rounded half to even as by ONNX.

    The zero point is in the bounds. The gradient is 1 inside the bounds, as if nothing was rounded,
    and 0 outside (the straight-through estimator: Bengio et al. 2013, arXiv:1308.3432; Jacob et al.
    2018, arXiv:1712.05877, section 3). ``scale`` gets none.
    """
    level = x / scale
    rounded = (
        level + (level.round() - level).detach()
    )  # exactly the integer: the difference has no rounding of its own
    bounded = torch.clamp(rounded, low, high)  # type: ignore[arg-type]  # a mix is not in the stub
    return bounded * scale


def shape_along(values: Tensor, axis: int, x: Tensor) -> Tensor:
    """Return one value, or one for each entry of ``axis``, in the shape that meets ``x``."""
    return (
        values
        if values.numel() == 1
        else values.reshape([-1 if n == axis % x.ndim else 1 for n in range(x.ndim)])
    )


def quantize_linear(node: OperatorCall, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return what the pair makes of ``x``, without integers, so that gradients pass."""
    axis, ends = node.attributes.get("axis", 1), torch.iinfo(zero.dtype)
    shift = shape_along(zero.float(), axis, x)
    return fake_quantize(x, shape_along(scale, axis, x), ends.min - shift, ends.max - shift)


def dequantize_linear(
    node: OperatorCall, x: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    if x.is_floating_point():
        return x  # behind a QuantizeLinear, which has done it
    axis = node.attributes.get("axis", 1)
    shift = torch.zeros(()) if zero is None else shape_along(zero.float(), axis, x)
    return (x.float() - shift.to(x.device)) * shape_along(scale, axis, x)


def read_window(node: OperatorCall, axes: int) -> dict[str, Any]:
    """Return strides, padding and dilations, a number for each of the image's axes."""
    for name, usual in {"auto_pad": b"NOTSET", "ceil_mode": 0}.items():
        if node.attributes.get(name, usual) != usual:
            raise node.make_refusal(name)
    pads = node.attributes.get("pads", [0] * 2 * axes)
    if pads[:axes] != pads[axes:]:
        raise node.make_refusal("pads")
    ones = [1] * axes
    found = {
        "stride": node.attributes.get("strides", ones),
        "dilation": node.attributes.get("dilations", ones),
    }
    return found | {"padding": pads[:axes]}


CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
MEANS = {3: functional.avg_pool1d, 4: functional.avg_pool2d, 5: functional.avg_pool3d}
LARGEST = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}


def convolution(
    node: OperatorCall, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    groups = node.attributes.get("group", 1)
    return CONVOLUTIONS[x.ndim](x, weight, bias, groups=groups, **read_window(node, x.ndim - 2))


def average_pool(node: OperatorCall, x: Tensor) -> Tensor:
    found = read_window(node, x.ndim - 2)
    if any(size != 1 for size in found.pop("dilation")):
        raise node.make_refusal("dilations")
    padded = bool(node.attributes.get("count_include_pad", 0))
    made: Tensor = MEANS[x.ndim](
        x, node.attributes["kernel_shape"], count_include_pad=padded, **found
    )
    return made


def max_pool(node: OperatorCall, x: Tensor) -> Tensor:
    made: Tensor = LARGEST[x.ndim](
        x, node.attributes["kernel_shape"], **read_window(node, x.ndim - 2)
    )
    return made


def gemm(node: OperatorCall, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    attributes = node.attributes
    left = a.mT if attributes.get("transA", 0) else a
    right = b.mT if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def batch_normalization(
    node: OperatorCall, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.attributes.get("training_mode", 0):
        raise node.make_refusal("training_mode")
    return functional.batch_norm(
        x, mean, variance, scale, bias, eps=node.attributes.get("epsilon", 1e-5)
    )


def layer_normalization(
    node: OperatorCall, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    shape = x.shape[node.attributes.get("axis", -1) :]
    return functional.layer_norm(x, shape, scale, bias, node.attributes.get("epsilon", 1e-5))


def reduce_mean(node: OperatorCall, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = node.attributes.get("axes", []) if axes is None else axes.tolist()
    if not chosen and node.attributes.get("noop_with_empty_axes", 0):
        return x
    return x.mean(chosen or list(range(x.ndim)), keepdim=bool(node.attributes.get("keepdims", 1)))


def clip(
    node: OperatorCall, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def flatten(node: OperatorCall, x: Tensor) -> Tensor:
    return x.reshape(math.prod(x.shape[: node.attributes.get("axis", 1)]), -1)


def reshape(node: OperatorCall, x: Tensor, shape: Tensor) -> Tensor:
    zero = bool(node.attributes.get("allowzero", 0))
    return x.reshape(
        [
            x.shape[axis] if not size and not zero else size
            for axis, size in enumerate(shape.tolist())
        ]
    )


def squeeze(node: OperatorCall, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def unsqueeze(node: OperatorCall, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def transpose(node: OperatorCall, x: Tensor) -> Tensor:
    return x.permute(node.attributes.get("perm", list(reversed(range(x.ndim)))))


def gelu(node: OperatorCall, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.attributes.get("approximate", b"none").decode())


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Add": lambda node, a, b: a + b,
    "AveragePool": average_pool,
    "BatchNormalization": batch_normalization,
    "Clip": clip,
    "Concat": lambda node, *parts: torch.cat(parts, node.attributes["axis"]),
    "Conv": convolution,
    "DequantizeLinear": dequantize_linear,
    "Div": lambda node, a, b: a / b,
    "Flatten": flatten,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalAveragePool": lambda node, x: x.mean(list(range(2, x.ndim)), keepdim=True),
    "Identity": lambda node, x: x,
    "LayerNormalization": layer_normalization,
    "MatMul": lambda node, a, b: a @ b,
    "MaxPool": max_pool,
    "Mul": lambda node, a, b: a * b,
    "QuantizeLinear": quantize_linear,
    "ReduceMean": reduce_mean,
    "Relu": lambda node, x: x.relu(),
    "Reshape": reshape,
    "Sigmoid": lambda node, x: x.sigmoid(),
    "Softmax": lambda node, x: x.softmax(node.attributes.get("axis", -1)),
    "Squeeze": squeeze,
    "Sub": lambda node, a, b: a - b,
    "Tanh": lambda node, x: x.tanh(),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""``operator(node, *inputs)``; each gives one tensor."""

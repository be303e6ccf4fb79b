"""Placement: where Q-DQ pairs stand and what form they have, for the runtimes that are to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MULTIPLYING = frozenset({"Conv", "Gemm", "MatMul"})
"""Where int8 saves time; without one of these nothing is gained."""
CARRYING = frozenset(
    {"Add", "Relu", "Clip", "GlobalAveragePool", "AveragePool", "MaxPool", "Flatten", "Reshape", "Squeeze", "Concat", "Transpose"}
)
"""What keeps a tensor in int8 between two convolutions."""

LEVELS = {8: 127, 7: 64}
"""The largest magnitude of an integer weight by its bits. Weights are symmetric, so that -128 is left out; 7 bits are what ONNX
Runtime's quantizer calls a reduced range: two products with a u8 are at most 2 * 255 * 64 = 32640, and fit into 16 bits."""


@dataclass(frozen=True)
class Placement:
    """Weights are signed and symmetric in all of them."""

    name: str
    activations: str
    """An element type of ``onnxruntime.quantization.QuantType``."""
    carrying: frozenset[str]
    """What has pairs beside ``MULTIPLYING``, in networks of convolutions."""
    results: bool
    """Whether what a multiplying node gives is rounded too, or only what it reads."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of ONNX Runtime's quantizer."""
    halves: bool = False
    """Whether what stays out of int8 is faster in half precision than in float."""


UNSIGNED = Placement("unsigned", "QUInt8", CARRYING, results=True)
"""u8 activations, asymmetric (Jacob et al. 2018, arXiv:1712.05877, eq. 1, 2): the form that the kernels of CPUs are fast in.

Measured with ONNX Runtime on AVX512-VNNI, one thread, batch 1: symmetric activations are 1.2 times slower and two unsigned
operands 1.3 to 2.4 times; one scale a tensor instead of a channel gains at most 3 %.
"""
SYMMETRIC = Placement(
    "symmetric",
    "QInt8",
    frozenset(),
    results=False,
    options={
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": sorted(MULTIPLYING),
    },
    halves=True,
)
"""s8 with zero points of 0 and a float bias, which is all that TensorRT's parser takes; pairs before what multiplies and none
behind it, so that bias, activation and rounding can be fused (TensorRT's developer guide, "Q/DQ placement recommendations")."""

PLACEMENTS: Mapping[str, Placement] = {
    "onnxruntime": UNSIGNED,
    "openvino": UNSIGNED,
    "tensorrt": SYMMETRIC,
    "tensorrt-rtx": SYMMETRIC,
}
"""By runtime."""

"""Where the Q-DQ pairs of an int8 graph stand and what form they have, by runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MULTIPLYING = frozenset({"Conv", "Gemm", "MatMul"})
"""The operators that int8 makes faster; without one of them nothing is gained."""
CARRYING = frozenset({"Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool"})
CARRYING |= {"MaxPool", "Relu", "Reshape", "Squeeze", "Transpose"}
"""The operators that keep a tensor in int8 between two convolutions."""

LEVELS = {8: 127, 7: 64}
"""The largest magnitude of an integer weight by its bits.

Weights are symmetric, so that -128 is left out. 7 bits are what ONNX Runtime's quantizer calls a
reduced range: two products with a u8 are at most 2 * 255 * 64 = 32640, which fits into 16 bits.
"""


@dataclass(frozen=True)
class Placement:
    """Where pairs stand. Weights are signed and symmetric in all placements."""

    name: str
    activations: str
    """An element type of ``onnxruntime.quantization.QuantType``."""
    carrying: frozenset[str]
    """The operators with pairs besides ``MULTIPLYING``, in convolutional networks."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of ONNX Runtime's quantizer."""
    halves: bool = False
    """Whether nodes that stay out of int8 are faster in half precision than in float."""


UNSIGNED = Placement("unsigned", "QUInt8", CARRYING)
"""u8 activations, asymmetric (Jacob et al. 2018, arXiv:1712.05877, eq. 1, 2): the form for which
CPUs have fast kernels.

Measured with ONNX Runtime on AVX512-VNNI, one thread, batch 1: symmetric activations are 1.2 times
slower and two unsigned operands 1.3 to 2.4 times; one scale a tensor instead of a channel gains at
most 3 %.
"""
SYMMETRIC = Placement(
    "symmetric",
    "QInt8",
    frozenset(),
    options={
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": sorted(MULTIPLYING),
    },
    halves=True,
)
"""s8 with zero points of 0 and a float bias, which is all that TensorRT's parser takes.

Pairs stand before a multiplying node and none behind it, so that bias, activation and rounding can
be fused (TensorRT's developer guide, "Q/DQ placement recommendations").
"""

PLACEMENTS: Mapping[str, Placement] = {
    "onnxruntime": UNSIGNED,
    "openvino": UNSIGNED,
    "tensorrt": SYMMETRIC,
    "tensorrt-rtx": SYMMETRIC,
}
"""The placement of each runtime."""

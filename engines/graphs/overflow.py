"""What half precision cannot hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.engines.graphs.inspection import index_constants

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
"""The largest finite number of half precision."""
MARGIN = 2.0
"""The factor between the largest value on training data and ``LARGEST``."""
SQUARING = frozenset(
    {
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "ReduceL2",
        "ReduceSumSquare",
    }
)
"""Operators that square their input inside: where that overflows depends on the runtime."""


def find_overflowing_nodes(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, str]:
    """Return the nodes whose tensors or weights half precision cannot hold, each with the reason.

    ``ranges`` are those of the tensors on training data.
    """
    import onnx

    magnitudes = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    for name, tensor in index_constants(model).items():
        magnitudes[name] = find_largest_magnitude(onnx.numpy_helper.to_array(tensor))
    reasons = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            limit = LARGEST / MARGIN
            if node.op_type in SQUARING and name in node.input[:1]:
                limit = math.sqrt(limit)
            if magnitudes.get(name, 0) > limit:
                reasons[node.name] = f"{name!r} reaches {magnitudes[name]:.3g}"
    return reasons


def find_largest_magnitude(values: np.ndarray[Any, Any]) -> float:
    """Return the largest finite magnitude of floats. Infinity exists in half precision."""
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0))

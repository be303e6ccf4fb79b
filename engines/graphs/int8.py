"""Static int8: Q-DQ pairs around the operators with int8 kernels, as the target's runtime wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.graphs import selection
from attar.engines.graphs.placement import LEVELS, MULTIPLYING, UNSIGNED, Placement
from attar.engines.graphs.pooling import replace_global_means
from attar.engines.graphs.preparation import clear_metadata, prepare_graph, sort_nodes
from attar.engines.graphs.weights import separate_weights
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
EXCLUDED = "excluded by the recipe"


@dataclass(frozen=True)
class QuantizationSpec:
    """How a graph is written in int8."""

    placement: Placement = UNSIGNED
    per_channel: bool = True
    """A scale for each output channel of a weight, where a product has such channels, instead of
    one for the whole weight."""
    method: str = "minmax"
    """The method that found the ranges in the calibration."""
    exclude: Mapping[str, str] = field(default_factory=dict)
    """Nodes that stay out of int8, and why."""
    weight_bits: int = 8
    """With 7 no sum of two products leaves 16 bits; see ``LEVELS``."""

    @property
    def levels(self) -> int:
        """The largest magnitude of an integer weight."""
        return LEVELS[self.weight_bits]


@dataclass(frozen=True)
class QuantizedGraph:
    """A Q-DQ graph, its int8 nodes, and the multiplying nodes that are not, with the reason."""

    model: onnx.ModelProto
    inside: list[onnx.NodeProto]
    outside: dict[str, str]


def write_int8_graph(source: Path, target: Path, ranges: Ranges, spec: QuantizationSpec) -> Facts:
    """Write the Q-DQ graph. Return how many of each operator are int8, and which nodes are not.

    Raises UnsupportedModelError if nothing can be quantized, StageError if an excluded node does
    not exist or a tensor has no range.
    """
    import onnx

    graph = quantize_graph(source, ranges, spec)
    if not any(node.op_type in MULTIPLYING for node in graph.inside):
        raise selection.make_nothing_error(graph.model, MULTIPLYING, graph.outside, "'fp32'")
    onnx.save(clear_metadata(graph.model), target)
    return {
        "placement": spec.placement.name,
        "per_channel": spec.per_channel,
        "range_method": spec.method,
        "weight_bits": spec.weight_bits,
        "quantized": dict(sorted(Counter(node.op_type for node in graph.inside).items())),
        "float": graph.outside,
    }


def quantize_graph(source: Path, ranges: Ranges, spec: QuantizationSpec) -> QuantizedGraph:
    """Return the Q-DQ graph, even if no multiplying node is in int8."""
    model, known_ranges = prepare_graph(source), dict(ranges)
    if spec.placement.carrying:
        replace_global_means(model, known_ranges)
    selection.check_node_names(model, spec.exclude)
    op_types = selection.select_int8_op_types(model, spec.placement)
    reasons = {
        **selection.find_misread_nodes(model),
        **selection.find_float_nodes(model),
        **spec.exclude,
    }
    inside, outside = [], {}
    for node in model.graph.node:
        if node.op_type in op_types and node.name not in reasons:
            inside.append(node)
        elif node.op_type in MULTIPLYING or (
            node.op_type in op_types and node.name in spec.exclude
        ):
            outside[node.name] = reasons[node.name]
    return QuantizedGraph(insert_qdq_pairs(model, known_ranges, spec, inside), inside, outside)


def insert_qdq_pairs(
    model: onnx.ModelProto, ranges: Ranges, spec: QuantizationSpec, inside: list[onnx.NodeProto]
) -> onnx.ModelProto:
    """Return the graph with the pairs that ONNX Runtime's quantizer places around these nodes.

    The quantizer appends what it adds, and ONNX wants each node behind those that it reads.

    Raises StageError if a tensor that is rounded there has no range.
    """
    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    names = [node.name for node in inside]
    overrides = separate_weights(model, set(names), spec.per_channel)
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        spec.per_channel,
        spec.weight_bits < 8,
        QuantType.QInt8,
        QuantType[spec.placement.activations],
        TensorsData(CalibrationMethod.MinMax, data),
        names,
        [],
        sorted({node.op_type for node in inside}),
        {**spec.placement.options, "TensorQuantOverrides": overrides},
    )
    try:
        quantizer.quantize_model()
    except (KeyError, ValueError) as error:
        raise StageError(
            f"ONNX Runtime cannot quantize the graph with these ranges: {error}; were they "
            "calibrated on another graph?"
        ) from error
    quantized: onnx.ModelProto = quantizer.model.model
    sort_nodes(quantized)
    return quantized

"""Static int8: Q-DQ pairs around the operators with int8 kernels, as the target's runtime wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.engines.graphs.half_precision import convert_to_fp16, find_overflowing_nodes
from attar.engines.graphs.inspection import index_constants
from attar.engines.graphs.placement import LEVELS, MULTIPLYING, UNSIGNED, Placement
from attar.engines.graphs.pooling import replace_global_means
from attar.engines.graphs.preparation import clear_metadata, prepare_graph
from attar.engines.graphs.selection import (
    check_node_names,
    find_float_nodes,
    format_reasons,
    infer_other_types,
    list_quantized_tensors,
    select_int8_op_types,
)
from attar.engines.graphs.weights import separate_weights
from attar.pipeline.core.errors import StageError, UnsupportedModelError

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
Overrides = Mapping[str, Mapping[str, bool]]
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
    half: frozenset[str] = frozenset()
    """Those excluded nodes that compute in half precision instead of float."""
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


def write_int8_graph(
    source: Path, target: Path, ranges: Ranges, spec: QuantizationSpec
) -> dict[str, Any]:
    """Write the Q-DQ graph. Return how many of each operator are int8, and which nodes are not.

    Raises UnsupportedModelError if nothing can be quantized, StageError if an excluded node does
    not exist or a tensor has no range.
    """
    import onnx

    graph = quantize_graph(source, ranges, spec)
    check_int8_nodes(graph)
    overflowing = find_overflowing_nodes(prepare_graph(source), ranges)
    too_wide = {name: reason for name, reason in overflowing.items() if name in spec.half}
    converted = convert_to_fp16(graph.model, spec.half - too_wide.keys())
    onnx.save(clear_metadata(graph.model), target)
    half = {name: reason for name, reason in graph.outside.items() if name in converted}
    floats = {name: reason for name, reason in graph.outside.items() if name not in half}
    for name, reason in too_wide.items():
        floats[name] = f"{floats[name]}; half precision cannot hold it: {reason}"
    return {
        "placement": spec.placement.name,
        "per_channel": spec.per_channel,
        "range_method": spec.method,
        "weight_bits": spec.weight_bits,
        "quantized": dict(sorted(Counter(node.op_type for node in graph.inside).items())),
        "float": floats,
        **({"half": half} if half else {}),
    }


def quantize_graph(source: Path, ranges: Ranges, spec: QuantizationSpec) -> QuantizedGraph:
    """Return the Q-DQ graph, even if no multiplying node is in int8."""
    model, known_ranges = prepare_graph(source), dict(ranges)
    if spec.placement.carrying:
        replace_global_means(model, known_ranges)
    check_node_names(model, spec.exclude)
    op_types = select_int8_op_types(model, spec.placement)
    reasons = {**find_float_nodes(model), **spec.exclude}
    excluded = {*reasons, *infer_other_types(model)}
    inside, outside = [], {}
    for node in model.graph.node:
        if node.op_type in op_types and node.name not in excluded:
            inside.append(node)
        is_asked = node.op_type in op_types and node.name in spec.exclude
        if node.name in reasons and (node.op_type in MULTIPLYING or is_asked):
            outside[node.name] = reasons[node.name]
    check_ranges(inside, model, known_ranges, spec.placement)
    overrides = separate_weights(model, {node.name for node in inside}, spec.per_channel)
    quantized = insert_qdq_pairs(
        model, known_ranges, spec, sorted(excluded), sorted(op_types), overrides
    )
    return QuantizedGraph(quantized, inside, outside)


def insert_qdq_pairs(
    model: onnx.ModelProto,
    ranges: Ranges,
    spec: QuantizationSpec,
    excluded: list[str],
    op_types: list[str],
    overrides: Overrides,
) -> onnx.ModelProto:
    """Return the graph with the pairs that ONNX Runtime's quantizer places for these ranges."""
    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in ranges.items()
    }
    tensor_overrides = {name: [{**overrides[name]}] for name in sorted(overrides)}
    quantizer = QDQQuantizer(
        model,
        spec.per_channel,
        spec.weight_bits < 8,
        QuantType.QInt8,
        QuantType[spec.placement.activations],
        TensorsData(CalibrationMethod.MinMax, data),
        [],
        excluded,
        op_types,
        {**spec.placement.options, "TensorQuantOverrides": tensor_overrides},
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def check_int8_nodes(graph: QuantizedGraph) -> None:
    """Raises UnsupportedModelError if no multiplying node is in int8."""
    if any(node.op_type in MULTIPLYING for node in graph.inside):
        return
    present = {node.op_type for node in graph.model.graph.node}
    present -= {"QuantizeLinear", "DequantizeLinear"}
    raise UnsupportedModelError(
        f"nothing can be quantized: no {', '.join(sorted(MULTIPLYING))} is left but those "
        f"excluded, a narrow stem and the last layer{format_reasons(graph.outside)}; "
        f"the graph has {', '.join(sorted(present))}. Use precision = 'fp32'"
    )


def check_ranges(
    nodes: Collection[onnx.NodeProto], model: onnx.ModelProto, ranges: Ranges, placement: Placement
) -> None:
    """Raises StageError if calibration has no range for a tensor that is quantized."""
    weights = index_constants(model)
    for node in nodes:
        results = placement.results or node.op_type not in MULTIPLYING
        for name in list_quantized_tensors(node, results=results):
            if name not in weights and name not in ranges:
                raise StageError(
                    f"calibration has no range for tensor {name!r} of {node.name}; "
                    "was it made from another graph?"
                )

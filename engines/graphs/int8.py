"""Static int8: Q-DQ pairs around the operators that have int8 kernels, in the form that the target's runtime wants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.engines.graphs.graphs import clear_metadata, index_constants, prepare_graph
from attar.engines.graphs.half import convert_to_fp16, find_overflowing_nodes
from attar.engines.graphs.placement import LEVELS, MULTIPLYING, UNSIGNED, Placement
from attar.engines.graphs.pooling import replace_global_means
from attar.engines.graphs.selection import (
    check_node_names,
    find_float_nodes,
    find_non_float32_nodes,
    format_reasons,
    list_quantized_tensors,
    select_int8_op_types,
)
from attar.engines.graphs.weights import separate_weights
from attar.pipeline.core.errors import StageError, UnsupportedModelError

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
EXCLUDED = "excluded by the recipe"


@dataclass(frozen=True)
class QuantizationSpec:
    """One of the ways to write a graph in int8."""

    placement: Placement = UNSIGNED
    per_channel: bool = True
    """A scale for each output channel of a weight instead of one for the whole weight; where a product has such channels."""
    method: str = "minmax"
    """By which ranges were found from the calibration."""
    exclude: Mapping[str, str] = field(default_factory=dict)
    """Nodes that stay out of int8, and why."""
    half: frozenset[str] = frozenset()
    """Those of them that compute in half precision instead of float."""
    weight_bits: int = 8
    """7: so that no sum of two products leaves 16 bits; see ``LEVELS``."""

    @property
    def levels(self) -> int:
        """The largest magnitude of an integer weight."""
        return LEVELS[self.weight_bits]


@dataclass(frozen=True)
class QuantizedGraph:
    """A Q-DQ graph, the nodes that are in int8, and the multiplying ones that are not, with the reason."""

    model: onnx.ModelProto
    inside: list[onnx.NodeProto]
    outside: dict[str, str]


def write_int8_graph(source: Path, target: Path, ranges: Ranges, form: QuantizationSpec) -> dict[str, Any]:
    """Write the Q-DQ graph. Returns how many of each operator are int8, and which multiplying ones stay float, and why.

    Raises UnsupportedModelError if nothing can be quantized, StageError for an excluded node that
    is not there and a tensor without a range.
    """
    import onnx

    made = quantize_graph(source, ranges, form)
    check_int8_nodes(made)
    wide = {name: why for name, why in find_overflowing_nodes(prepare_graph(source), ranges).items() if name in form.half}
    halved = convert_to_fp16(made.model, form.half - wide.keys())
    onnx.save(clear_metadata(made.model), target)
    half = {name: why for name, why in made.outside.items() if name in halved}
    floats = {name: why for name, why in made.outside.items() if name not in half}
    floats |= {name: f"{floats[name]}; half precision cannot hold it: {why}" for name, why in wide.items()}
    return {
        "placement": form.placement.name,
        "per_channel": form.per_channel,
        "range_method": form.method,
        "weight_bits": form.weight_bits,
        "quantized": dict(sorted(Counter(node.op_type for node in made.inside).items())),
        "float": floats,
        **({"half": half} if half else {}),
    }


def quantize_graph(source: Path, ranges: Ranges, form: QuantizationSpec) -> QuantizedGraph:
    """As ``quantize``, in memory; also where nothing that multiplies is left."""
    model, known = prepare_graph(source), dict(ranges)
    if form.placement.carrying:
        replace_global_means(model, known)
    check_node_names(model, form.exclude)
    operators, integers = select_int8_op_types(model, form.placement), find_non_float32_nodes(model)
    kept = {**find_float_nodes(model), **form.exclude}
    out = kept.keys() | integers
    inside = [node for node in model.graph.node if node.op_type in operators and node.name not in out]
    worth = [n.name for n in model.graph.node if n.op_type in MULTIPLYING or (n.op_type in operators and n.name in form.exclude)]
    outside = {name: kept[name] for name in worth if name in kept}
    check_ranges(inside, model, known, form.placement)
    told = separate_weights(model, {node.name for node in inside}, form.per_channel)
    return QuantizedGraph(insert_qdq_pairs(model, known, form, sorted(out), sorted(operators), told), inside, outside)


def insert_qdq_pairs(
    model: onnx.ModelProto, ranges: Ranges, form: QuantizationSpec, kept: list[str], operators: list[str], told: Mapping[str, Any]
) -> onnx.ModelProto:
    """ONNX Runtime's own placement of Q-DQ pairs, fed with our ranges, and ``told`` what is different about some initializers."""
    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    options = {**form.placement.options, "TensorQuantOverrides": {name: [{**told[name]}] for name in sorted(told)}}
    quantizer = QDQQuantizer(
        model, form.per_channel, form.weight_bits < 8, QuantType.QInt8, QuantType[form.placement.activations],
        TensorsData(CalibrationMethod.MinMax, data), [], kept, operators, options,
    )  # fmt: skip
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made


def check_int8_nodes(made: QuantizedGraph) -> None:
    if not any(node.op_type in MULTIPLYING for node in made.inside):
        present = {node.op_type for node in made.model.graph.node} - {"QuantizeLinear", "DequantizeLinear"}
        raise UnsupportedModelError(
            f"nothing can be quantized: no {', '.join(sorted(MULTIPLYING))} is left but those excluded, a narrow stem and "
            f"the last layer{format_reasons(made.outside)}; the graph has {', '.join(sorted(present))}. Use precision = 'fp32'"
        )


def check_ranges(inside: Collection[onnx.NodeProto], model: onnx.ModelProto, ranges: Ranges, placement: Placement) -> None:
    weights = index_constants(model)
    for node in inside:
        for name in list_quantized_tensors(node, results=placement.results or node.op_type not in MULTIPLYING):
            if name not in weights and name not in ranges:
                raise StageError(f"calibration has no range for tensor {name!r} of {node.name}; was it made from another graph?")

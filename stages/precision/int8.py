"""Static int8 for CPUs: Q-DQ pairs around the operators that have int8 kernels, weights per channel.

Activations are unsigned and asymmetric, weights signed and symmetric (Jacob et al. 2018, arXiv:1712.05877, eq. 1, 2): the
form that ONNX Runtime's CPU kernels are fast in. Measured on AVX512-VNNI, one thread, batch 1: symmetric activations are
1.2 times slower and two unsigned operands 1.3 to 2.4 times; one scale a tensor instead of a channel gains at most 3 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.pipeline.errors import Refusal, StageError, did_you_mean
from attar.stages.precision.graphs import attribute, constants, inline_identities, is_float, tidy
from attar.stages.precision.pooling import pool_globally

if TYPE_CHECKING:
    import onnx

MULTIPLYING = frozenset({"Conv", "Gemm", "MatMul"})
"""Where int8 saves time; without one of these nothing is gained."""
CARRYING = frozenset(
    {"Add", "Relu", "Clip", "GlobalAveragePool", "AveragePool", "MaxPool", "Flatten", "Reshape", "Squeeze", "Concat", "Transpose"}
)
"""What keeps a tensor in int8 between two convolutions."""
FEW_CHANNELS = 4  # VNNI multiplies four bytes at a time: a convolution of fewer channels fills no instruction

Ranges = dict[str, tuple[float, float]]


def quantize(
    source: Path, target: Path, ranges: Mapping[str, tuple[float, float]], per_channel: bool, exclude: Collection[str]
) -> dict[str, Any]:
    """Write the Q-DQ graph. Returns how many of each operator are int8 and which multiplying ones stay float.

    Raises StageError for an excluded node that is not there, a tensor without a range, and if nothing can be quantized.
    """
    import onnx

    model, ranges = prepared(source), dict(ranges)
    pool_globally(model, ranges)
    operators, integers = chosen(model), integer_nodes(model)
    kept = {*unknown_refused(model, exclude), *better_in_float(model)} - integers
    inside = [node for node in model.graph.node if node.op_type in operators and node.name not in kept | integers]
    require_work(inside, model)
    require_ranges(inside, model, ranges)
    onnx.save(tidy(with_pairs(model, ranges, per_channel, sorted(kept | integers), sorted(operators))), target)
    return {
        "quantized": dict(sorted(Counter(node.op_type for node in inside).items())),
        "float": [node.name for node in model.graph.node if node.op_type in MULTIPLYING and node.name in kept],
    }


def prepared(source: Path) -> onnx.ModelProto:
    """The float graph, every node with a name and every weight a tensor of its own."""
    import onnx

    model = tidy(onnx.load(source))
    name_nodes(model)
    inline_identities(model)
    return model


def with_pairs(
    model: onnx.ModelProto, ranges: Ranges, per_channel: bool, kept: list[str], operators: list[str]
) -> onnx.ModelProto:
    """ONNX Runtime's own placement of Q-DQ pairs, fed with our ranges."""
    import numpy as np
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        model, per_channel, False, QuantType.QInt8, QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data), [], kept, operators, {},
    )  # fmt: skip
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return made


def name_nodes(model: onnx.ModelProto) -> None:
    """Nodes are left out by name, so each needs one."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def chosen(model: onnx.ModelProto) -> frozenset[str]:
    """Convolutional networks stay in int8 between their layers; in transformers only the products are worth it."""
    present = {node.op_type for node in model.graph.node}
    transformer = "LayerNormalization" in present or "Conv" not in present
    return MULTIPLYING if transformer else MULTIPLYING | CARRYING


def integer_nodes(model: onnx.ModelProto) -> set[str]:
    """Nodes that compute shapes, indices and masks: their operators carry integers as well as floats, and integers stay exact.

    By the inferred type of the first result, which all operators here share with their data.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return {node.name for node in model.graph.node if not is_float(types.get(node.output[0], onnx.TensorProto.FLOAT))}


def better_in_float(model: onnx.ModelProto) -> set[str]:
    """The stem and the head of a network, and products of two activations, as in attention.

    A stem of 1 or 3 channels in float makes the whole network 4 to 15 % faster (measured at 28x28 and 96x96), and
    the pixels keep their precision; the last layer is too small to gain, and its rounding goes straight into the answer.
    Products of two activations have two unsigned operands, for which there is no fast kernel: with them in float a transformer
    of width 160 is 15 % faster at 10 tokens and 20 % at 48 (measured).
    """
    inputs = {value.name for value in model.graph.input}
    weights, last = constants(model), answers(model)
    stem = [n for n in model.graph.node if n.op_type == "Conv" and n.input[0] in inputs and narrow(n, weights)]
    head = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul") and n.output[0] in last]
    both = [n for n in model.graph.node if n.op_type == "MatMul" and not weights.keys() & set(n.input)]
    return {node.name for node in stem + head + both}


def answers(model: onnx.ModelProto) -> set[str]:
    """The outputs, and what only a bias is added to before it is one."""
    weights, outputs = constants(model), {value.name for value in model.graph.output}
    adding = [node for node in model.graph.node if node.op_type == "Add" and node.output[0] in outputs]
    return outputs | {name for node in adding for name in node.input if any(other in weights for other in node.input)}


def narrow(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """A dense convolution of few channels; depthwise ones have a kernel of their own."""
    weight = weights.get(node.input[1])
    return weight is not None and weight.dims[1] < FEW_CHANNELS and attribute(node, "group", 1) == 1


def unknown_refused(model: onnx.ModelProto, exclude: Collection[str]) -> Collection[str]:
    names = {node.name for node in model.graph.node}
    for name in exclude:
        if name not in names:
            raise StageError(f"exclude names a node {name!r} that the graph does not have; {did_you_mean(name, names)}")
    return exclude


def require_work(inside: list[onnx.NodeProto], model: onnx.ModelProto) -> None:
    if not any(node.op_type in MULTIPLYING for node in inside):
        present = ", ".join(sorted({node.op_type for node in model.graph.node}))
        raise Refusal(
            f"nothing can be quantized: no {', '.join(sorted(MULTIPLYING))} is left but those excluded, a narrow stem and "
            f"the last layer; the graph has {present}. Use precision = 'fp32'"
        )


def require_ranges(inside: list[onnx.NodeProto], model: onnx.ModelProto, ranges: Ranges) -> None:
    weights = constants(model)
    for node in inside:
        for name in data(node):
            if name not in weights and name not in ranges:
                raise StageError(f"calibration has no range for tensor {name!r} of {node.name}; was it made from another graph?")


def data(node: onnx.NodeProto) -> list[str]:
    """The tensors that are quantized for it: not its bias, its shape, its bounds, nor the indices of what it pooled."""
    several = {"Add": 2, "Concat": len(node.input)} | dict.fromkeys(MULTIPLYING, 2)
    return [*node.input[: several.get(node.op_type, 1)], node.output[0]]

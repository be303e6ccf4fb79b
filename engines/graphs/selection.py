"""Which nodes of a graph are worth int8, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from attar.engines.graphs.inspection import get_attribute, index_constants, infer_element_types
from attar.engines.graphs.placement import MULTIPLYING, Placement
from attar.engines.graphs.softmax import find_final_softmaxes
from attar.engines.graphs.weights import list_float_reads
from attar.pipeline.core.errors import StageError, UnsupportedModelError, suggest_name

if TYPE_CHECKING:
    import onnx

PRODUCTS = frozenset({"Gemm", "MatMul"})
BOUNDING = frozenset({"Clip", "Relu"})
FEW_CHANNELS = 4
"""VNNI multiplies four bytes at a time: a convolution of fewer channels fills no instruction."""
MANY_COLUMNS = 1024
"""Results of a last layer that is large enough to gain, such as the tokens of a vocabulary."""
REASONS_SHOWN = 3
TWO_ACTIVATIONS = "a product of two activations"
UNREAD_GEMM = "a Gemm that scales or transposes its input"
"""Why a Gemm stays float: it is no MatMul, which alone ONNX Runtime's quantizers read."""


def select_int8_op_types(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """Return the operators to quantize.

    Convolutional networks stay in int8 between their layers; in transformers only products gain.
    """
    present = {node.op_type for node in model.graph.node}
    is_transformer = "LayerNormalization" in present or "Conv" not in present
    return MULTIPLYING if is_transformer else MULTIPLYING | placement.carrying


def find_float_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the nodes that are better in float or compute in another type, each with the reason.

    - A stem of 1 or 3 channels: in float it makes the whole network 4 to 15 % faster (measured at
      28x28 and 96x96), and the pixels keep their precision.
    - A last layer that is a matrix product: it is too small to gain, and its rounding goes straight
      into the answer. One over a vocabulary is not small: it is half of what a step of a
      translation model computes. A convolution at the end, as of a class at each pixel, is int8.
    - Products of two activations, as in attention: they have two unsigned operands, for which there
      is no fast kernel. With them in float a transformer of width 160 is 15 % faster at 10 tokens
      and 20 % at 48 (measured).
    - What computes in another type than float32: shapes, indices and masks stay exact, and ranges
      are float32. The type is that of the first result, as all operators here share it.
    """
    import onnx

    inputs = {value.name for value in model.graph.input}
    weights, final = index_constants(model), find_final_tensors(model)
    types, float32 = infer_element_types(model), onnx.TensorProto.FLOAT
    reasons = {}
    for node in model.graph.node:
        element_type = types.get(node.output[0], float32)
        if element_type != float32:
            name = onnx.TensorProto.DataType.Name(element_type).lower()
            reasons[node.name] = f"computes in {name}"
        elif is_small_product(node, weights) and node.output[0] in final:
            reasons[node.name] = "the last layer"
        elif node.op_type in PRODUCTS and not weights.keys() & set(node.input[:2]):
            reasons[node.name] = TWO_ACTIVATIONS
        elif node.op_type == "Conv" and node.input[0] in inputs and has_few_channels(node, weights):
            reasons[node.name] = "a stem of few channels"
    return reasons


def find_misread_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """Return the nodes that ONNX Runtime's quantizer would write wrongly, each with the reason.

    - It drops a Clip, because values outside a range become its ends. A range always holds 0, so it
      is no bound of a Clip that 0 is outside of.
    - It gives what only one node reads, a Clip or a Relu, the range of the result, also where it is
      an output, or read in a graph inside a node.
    - It reads a scale for each entry of a bias.
    """
    constants, shown = index_constants(model), set(list_float_reads(model))
    reasons = {}
    for node in model.graph.node:
        if node.op_type in BOUNDING and node.input[0] in shown:
            reasons[node.name] = f"a {node.op_type} of what is read elsewhere, too"
        elif node.op_type == "Clip" and not may_give_zero(node, constants):
            reasons[node.name] = "a Clip that 0 is outside of"
        elif node.op_type == "Gemm" and not has_plain_bias(node, constants):
            reasons[node.name] = "a Gemm whose bias is not one number a column"
    return reasons


def may_give_zero(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether 0 is known to be between the bounds of a Clip."""
    import onnx

    for name, sign in zip(node.input[1:], (-1, 1), strict=False):
        if name and name not in constants:
            return False
        if name and sign * onnx.numpy_helper.to_array(constants[name]).item() < 0:
            return False
    return True


def has_plain_bias(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a Gemm by constants has no bias, or one number for each column."""
    weight, bias = (constants.get(name) for name in (*node.input[1:3], "")[:2])
    if weight is None or bias is None:
        return True
    return list(bias.dims) == [weight.dims[0 if get_attribute(node, "transB", 0) else 1]]


def is_small_product(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node is a product with few results, or with results of no constant number."""
    if node.op_type not in PRODUCTS:
        return False
    weight = weights.get(node.input[1])
    columns = weight.dims[0 if get_attribute(node, "transB", 0) else -1] if weight else 0
    return bool(columns < MANY_COLUMNS)


def explain_float_product(
    node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]
) -> str | None:
    """Return why ONNX Runtime cannot store the weight of a product in int8, or None if it can.

    Its quantizers read a table on the right, and pass over all else without a word.
    """
    left, right = (weights.get(name) for name in node.input[:2])
    if node.op_type == "Gemm" and not is_plain_gemm(node):
        return UNREAD_GEMM
    if right is None:
        return "a weight on the left" if left is not None else TWO_ACTIVATIONS
    return None if len(right.dims) == 2 else f"a weight of {len(right.dims)} axes"


def is_plain_gemm(node: onnx.NodeProto) -> bool:
    """Whether a node is a Gemm that neither transposes its input nor scales."""
    scales = [get_attribute(node, name, 1.0) for name in ("alpha", "beta")]
    return node.op_type == "Gemm" and scales == [1.0, 1.0] and not get_attribute(node, "transA", 0)


def make_nothing_error(
    model: onnx.ModelProto, operators: Collection[str], floats: Mapping[str, str], remedy: str
) -> UnsupportedModelError:
    """Return the error of a graph in which none of these operators can be quantized."""
    shown = [f"{name} {reason}" for name, reason in islice(floats.items(), REASONS_SHOWN)]
    shown += ["..."] if len(floats) > REASONS_SHOWN else []
    reasons = f" ({', '.join(shown)})" if shown else ""
    present = {node.op_type for node in model.graph.node} - {"QuantizeLinear", "DequantizeLinear"}
    return UnsupportedModelError(
        f"nothing can be quantized: no {', '.join(sorted(operators))} is left{reasons}; the graph "
        f"has {', '.join(sorted(present))}. Use precision = {remedy}"
    )


def find_final_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the outputs, and the tensors behind which only a bias or a softmax comes."""
    weights, final = index_constants(model), {value.name for value in model.graph.output}
    final |= {node.input[0] for node in find_final_softmaxes(model)}
    before_bias: set[str] = set()
    for node in model.graph.node:
        is_final_add = node.op_type == "Add" and node.output[0] in final
        if is_final_add and any(name in weights for name in node.input):
            before_bias.update(node.input)
    return final | before_bias


def has_few_channels(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a convolution is dense and reads few channels. Depthwise ones have own kernels."""
    weight, is_dense = weights.get(node.input[1]), get_attribute(node, "group", 1) == 1
    return weight is not None and is_dense and weight.dims[1] < FEW_CHANNELS


def check_node_names(model: onnx.ModelProto, exclude: Collection[str]) -> None:
    """Raises StageError if the graph does not have a node of a name."""
    names = {node.name for node in model.graph.node}
    for name in (name for name in exclude if name not in names):
        hint = suggest_name(name, names)
        raise StageError(f"exclude names a node {name!r} that the graph does not have; {hint}")

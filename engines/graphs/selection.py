"""Selection: which nodes of a graph are worth int8, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from attar.engines.graphs.graphs import get_attribute, index_constants, infer_element_types
from attar.engines.graphs.placement import MULTIPLYING, Placement
from attar.engines.graphs.softmax import find_final_softmaxes
from attar.pipeline.core.errors import StageError, suggest_name

if TYPE_CHECKING:
    import onnx

FEW_CHANNELS = 4  # VNNI multiplies four bytes at a time: a convolution of fewer channels fills no instruction


def select_int8_op_types(model: onnx.ModelProto, placement: Placement) -> frozenset[str]:
    """Convolutional networks stay in int8 between their layers; in transformers only the products are worth it."""
    present = {node.op_type for node in model.graph.node}
    transformer = "LayerNormalization" in present or "Conv" not in present
    return MULTIPLYING if transformer else MULTIPLYING | placement.carrying


def find_non_float32_nodes(model: onnx.ModelProto) -> set[str]:
    """Nodes that compute shapes, indices and masks: their operators carry integers as well as floats, and integers stay exact.

    Those that compute in another float than float32 too: a scale must have the type of its tensor, and ranges are float32.
    """
    return set(infer_other_types(model))


def infer_other_types(model: onnx.ModelProto) -> dict[str, str]:
    """Nodes that are known to compute in another type than float32, and in which.

    By the inferred type of the first result, which all operators here share with their data.
    """
    import onnx

    types = infer_element_types(model)
    found = {node.name: types.get(node.output[0], onnx.TensorProto.FLOAT) for node in model.graph.node}
    name = onnx.TensorProto.DataType.Name
    return {node: name(kind).lower() for node, kind in found.items() if kind != onnx.TensorProto.FLOAT}


def find_float_nodes(model: onnx.ModelProto) -> dict[str, str]:
    """The stem and the head of a network, and products of two activations, as in attention: each with the reason.

    A stem of 1 or 3 channels in float makes the whole network 4 to 15 % faster (measured at 28x28 and 96x96), and
    the pixels keep their precision; the last layer is too small to gain, and its rounding goes straight into the answer.
    Products of two activations have two unsigned operands, for which there is no fast kernel: with them in float a transformer
    of width 160 is 15 % faster at 10 tokens and 20 % at 48 (measured).
    """
    inputs = {value.name for value in model.graph.input}
    weights, last = index_constants(model), find_final_tensors(model)
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] in inputs and has_few_channels(node, weights):
            found[node.name] = "a stem of few channels"
        if node.op_type == "MatMul" and not weights.keys() & set(node.input):
            found[node.name] = "a product of two activations"
        if node.op_type in ("Gemm", "MatMul") and node.output[0] in last:
            found[node.name] = "the last layer"
    types = infer_other_types(model)
    return found | {
        n.name: f"computes in {types[n.name]}" for n in model.graph.node if n.op_type in MULTIPLYING and n.name in types
    }


def format_reasons(kept: Mapping[str, str]) -> str:
    """For an error: nodes and reasons, the first few."""
    shown = [f"{name} {why}" for name, why in list(kept.items())[:3]]
    return f" ({', '.join(shown)}{', ...' if len(kept) > len(shown) else ''})" if shown else ""


def find_final_tensors(model: onnx.ModelProto) -> set[str]:
    """The outputs, and what only a bias is added to or a softmax is taken of before it is one."""
    weights, outputs = index_constants(model), {value.name for value in model.graph.output}
    outputs |= {node.input[0] for node in find_final_softmaxes(model)}
    adding = [node for node in model.graph.node if node.op_type == "Add" and node.output[0] in outputs]
    return outputs | {name for node in adding for name in node.input if any(other in weights for other in node.input)}


def has_few_channels(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """A dense convolution of few channels; depthwise ones have a kernel of their own."""
    weight = weights.get(node.input[1])
    return weight is not None and weight.dims[1] < FEW_CHANNELS and get_attribute(node, "group", 1) == 1


def check_node_names(model: onnx.ModelProto, exclude: Collection[str]) -> None:
    names = {node.name for node in model.graph.node}
    for name in exclude:
        if name not in names:
            raise StageError(f"exclude names a node {name!r} that the graph does not have; {suggest_name(name, names)}")


def list_quantized_tensors(node: onnx.NodeProto, *, results: bool = True) -> list[str]:
    """The tensors that are quantized for it: not its bias, its shape, its bounds, nor the indices of what it pooled."""
    several = {"Add": 2, "Concat": len(node.input)} | dict.fromkeys(MULTIPLYING, 2)
    return [*node.input[: several.get(node.op_type, 1)], *(node.output[:1] if results else [])]

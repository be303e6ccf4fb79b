"""A weight that several nodes read gets a copy for each way in which it is rounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from typing import TYPE_CHECKING

from attar.engines.graphs.initializers import InitializerCopies
from attar.engines.graphs.inspection import get_attribute, list_subgraph_reads
from attar.engines.graphs.placement import MULTIPLYING
from attar.engines.graphs.selection import list_quantized_tensors

if TYPE_CHECKING:
    import onnx

OVERRIDES: Mapping[Hashable, Mapping[str, bool]] = {
    ("weight", None): {"symmetric": True},
    "activation": {"reduce_range": False},
}
"""The ``TensorQuantOverrides`` of ONNX Runtime's quantizer for an initializer, by its rounding.

It would take a weight with one scale asymmetric, and activations with 7 bits where weights have 7.
"""


def separate_weights(
    model: onnx.ModelProto, inside: Collection[str], per_channel: bool
) -> dict[str, Mapping[str, bool]]:
    """Rewrite in place, so that no weight is rounded in two ways, nor at all for a float node.

    ``inside`` names the nodes that are quantized. The first node that reads a weight keeps its
    name. Returns the quantizer's overrides: of constants that are rounded like activations, and of
    weights of products that have one scale. Those are the weights on the left, those with more than
    two axes, and all of them unless ``per_channel``, because an int8 product has no other form.
    """
    import onnx

    copies = InitializerCopies(model)
    ranks = {
        tensor.name: len(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    names: dict[str, dict[Hashable, str]] = defaultdict(dict)
    for name in list_float_reads(model):
        names[name][None] = name
    overrides: dict[str, Mapping[str, bool]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name not in ranks:
                continue
            is_inside = node.name in inside
            rounding = find_rounding(node, place, ranks[name], per_channel) if is_inside else None
            if rounding not in names[name]:
                names[name][rounding] = copies.copy(name) if names[name] else name
            node.input[place] = names[name][rounding]
            if rounding in OVERRIDES:
                overrides[node.input[place]] = OVERRIDES[rounding]
    return overrides


def list_float_reads(model: onnx.ModelProto) -> list[str]:
    """Return what must stay float under its name: outputs, and what subgraphs read."""
    names = [value.name for value in model.graph.output]
    for node in model.graph.node:
        names += list_subgraph_reads(node)
    return names


def find_rounding(node: onnx.NodeProto, place: int, rank: int, per_channel: bool) -> Hashable:
    """Return how a quantized node rounds an initializer; None: not at all.

    A bias has the scale of its node.
    """
    if node.op_type in MULTIPLYING and place == 2:
        return "bias", node.name
    if node.op_type == "MatMul" or (node.op_type in MULTIPLYING and place == 1):
        return "weight", find_channel_axis(node, place, rank) if per_channel else None
    is_data = node.input[place] in list_quantized_tensors(node, results=False)
    return "activation" if is_data else None


def find_channel_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """Return the axis of a weight that has a scale for each entry; None: one scale for all."""
    if node.op_type == "MatMul":
        return 1 if (place, rank) == (1, 2) else None
    return 1 if node.op_type == "Gemm" and not get_attribute(node, "transB", 0) else 0

"""A weight that several nodes read gets a copy for each way in which it is rounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from itertools import count
from typing import TYPE_CHECKING

from attar.engines.graphs.inspection import get_attribute, list_subgraph_reads, list_tensor_names
from attar.engines.graphs.placement import MULTIPLYING

if TYPE_CHECKING:
    import onnx

COPY = ".copy"
Overrides = dict[str, list[dict[str, bool]]]
OVERRIDES: Mapping[Hashable, dict[str, bool]] = {
    ("weight", None): {"symmetric": True},
    "activation": {"reduce_range": False},
}
"""The ``TensorQuantOverrides`` of ONNX Runtime's quantizer for an initializer, by its rounding.

It would take a weight with one scale asymmetric, and activations with 7 bits where weights have 7.
"""


def separate_weights(
    model: onnx.ModelProto, inside: Collection[str], per_channel: bool
) -> Overrides:
    """Rewrite in place, so that no weight is rounded in two ways, nor at all for a float node.

    ``inside`` names the nodes that are quantized. The first node that reads a weight keeps its
    name. Returns the quantizer's overrides: of constants that are rounded like activations, and of
    weights of products that have one scale. Those are the weights on the left, those with more than
    two axes, and all of them unless ``per_channel``, because an int8 product has no other form.
    """
    import onnx

    float32 = onnx.TensorProto.FLOAT
    weights = {each.name: each for each in model.graph.initializer if each.data_type == float32}
    taken, overrides = list_tensor_names(model), Overrides()
    names: dict[str, dict[Hashable, str]] = defaultdict(dict)
    for name in list_float_reads(model):
        names[name][None] = name
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name not in weights:
                continue
            is_inside, rank = node.name in inside, len(weights[name].dims)
            rounding = find_rounding(node, place, rank, per_channel) if is_inside else None
            if rounding not in names[name]:
                is_first = not names[name]
                names[name][rounding] = name if is_first else add_copy(model, weights[name], taken)
            node.input[place] = names[name][rounding]
            if rounding in OVERRIDES:
                overrides[node.input[place]] = [dict(OVERRIDES[rounding])]
    return dict(sorted(overrides.items()))


def list_float_reads(model: onnx.ModelProto) -> list[str]:
    """Return what must stay float under its name: outputs, and what subgraphs read."""
    names = [value.name for value in model.graph.output]
    for node in model.graph.node:
        names += list_subgraph_reads(node)
    return names


def add_copy(model: onnx.ModelProto, tensor: onnx.TensorProto, taken: set[str]) -> str:
    """Add a copy of an initializer, and return its name."""
    copy = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    candidates = (f"{tensor.name}{COPY}{number}" for number in count(1))
    copy.name = next(name for name in candidates if name not in taken)
    taken.add(copy.name)
    return str(copy.name)


def find_rounding(node: onnx.NodeProto, place: int, rank: int, per_channel: bool) -> Hashable:
    """Return how a quantized node rounds an initializer; None: not at all.

    A bias has the scale of its node.
    """
    if node.op_type in MULTIPLYING and place == 2:
        return "bias", node.name
    if node.op_type == "MatMul" or (node.op_type in MULTIPLYING and place == 1):
        return "weight", find_channel_axis(node, place, rank) if per_channel else None
    data_inputs = {"Add": 2, "Concat": len(node.input)}.get(node.op_type, 1)
    return "activation" if place < data_inputs else None


def find_channel_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """Return the axis of a weight that has a scale for each entry; None: one scale for all."""
    if node.op_type == "MatMul":
        return 1 if (place, rank) == (1, 2) else None
    return 1 if node.op_type == "Gemm" and not get_attribute(node, "transB", 0) else 0

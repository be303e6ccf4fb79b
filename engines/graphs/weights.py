"""Weights: of what several nodes read, a copy for each way in which it is rounded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from typing import TYPE_CHECKING

from attar.engines.graphs.graphs import copy_initializer, get_attribute, list_subgraph_reads
from attar.engines.graphs.placement import MULTIPLYING
from attar.engines.graphs.selection import list_quantized_tensors

if TYPE_CHECKING:
    import onnx

OVERRIDES: Mapping[Hashable, Mapping[str, bool]] = {("weight", None): {"symmetric": True}, "activation": {"reduce_range": False}}
"""What ONNX Runtime's quantizer must be told of an initializer that is treated so: one scale, which it would take asymmetric; and
8 bits, which are no weight's."""


def separate_weights(model: onnx.ModelProto, inside: Collection[str], per_channel: bool) -> dict[str, Mapping[str, bool]]:
    """Rewrite in place, so that no weight is rounded in two ways, nor in any for a node that stays float.

    ``inside``: the names of the nodes that are quantized. The first that reads a weight keeps its name. Returns what the
    quantizer must be told of some: of the constants that are rounded like activations, and of the weights of products that have
    one scale, because an int8 product has no other: those that stand on the left or have more axes than two, all of them where
    no scale is asked for each channel.
    """
    import onnx

    ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    names: dict[str, dict[Hashable, str]] = defaultdict(dict)
    for kept in (
        *(value.name for value in model.graph.output),
        *(n for node in model.graph.node for n in list_subgraph_reads(node)),
    ):
        names[kept][None] = kept
    told: dict[str, Mapping[str, bool]] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in ranks:
                way = find_rounding(node, place, ranks[name], per_channel) if node.name in inside else None
                if way not in names[name]:
                    names[name][way] = copy_initializer(model, name) if names[name] else name
                node.input[place] = names[name][way]
                told |= {node.input[place]: OVERRIDES[way]} if way in OVERRIDES else {}
    return told


def find_rounding(node: onnx.NodeProto, place: int, rank: int, per_channel: bool) -> Hashable:
    """How a quantized node has an initializer rounded; a bias has the scale of its node. None: not at all."""
    if node.op_type in MULTIPLYING and place == 2:
        return "bias", node.name
    if node.op_type == "MatMul" or (node.op_type in MULTIPLYING and place == 1):
        return "weight", find_channel_axis(node, place, rank) if per_channel else None
    return "activation" if node.input[place] in list_quantized_tensors(node, results=False) else None


def find_channel_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """The axis of a weight along which its node's results lie, if it may have a scale for each: None for one for all."""
    if node.op_type == "MatMul":
        return 1 if (place, rank) == (1, 2) else None
    return 1 if node.op_type == "Gemm" and not get_attribute(node, "transB", 0) else 0

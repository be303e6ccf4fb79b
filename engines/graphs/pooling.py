"""A mean over all of an image becomes GlobalAveragePool.

ONNX Runtime has an int8 kernel for GlobalAveragePool, and none for ReduceMean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.engines.graphs.inspection import get_attribute, index_constants, infer_ranks

if TYPE_CHECKING:
    import onnx


def replace_global_means(model: onnx.ModelProto, ranges: dict[str, tuple[float, float]]) -> None:
    """Replace every ReduceMean over axes 2 and 3 of (N, C, H, W), in place.

    The dynamo exporter writes ``AdaptiveAvgPool2d(1)`` and ``x.mean((2, 3))`` as ReduceMean. A new
    tensor gets the range of the one that it replaces.
    """
    import onnx

    constants, ranks, nodes = index_constants(model), infer_ranks(model), model.graph.node
    for place, node in reversed(list(enumerate(nodes))):
        is_mean = node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4
        if not is_mean or list_reduced_axes(node, constants) != {2, 3}:
            continue
        result, pooled = node.output[0], f"{node.output[0]}_pooled"  # (N, C, 1, 1)
        if not get_attribute(node, "keepdims", 1):
            node.output[0] = pooled
            ranges |= {pooled: ranges[result]} if result in ranges else {}
            flatten = onnx.helper.make_node("Flatten", [pooled], [result], f"{node.name}_flat")
            nodes.insert(place + 1, flatten)
        node.op_type = "GlobalAveragePool"
        node.ClearField("attribute")
        del node.input[1:]


def list_reduced_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> set[int]:
    """Return the axes of a tensor with four; none if they are computed or left out."""
    import onnx

    if len(node.input) < 2 or node.input[1] not in constants:
        return set()
    return {int(axis) % 4 for axis in onnx.numpy_helper.to_array(constants[node.input[1]])}

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
    constants, ranks = index_constants(model), infer_ranks(model)
    nodes = []
    for node in model.graph.node:
        is_mean = node.op_type == "ReduceMean" and ranks.get(node.input[0]) == 4
        if is_mean and list_reduced_axes(node, constants) == {2, 3}:
            nodes += make_pooling_nodes(node, ranges)
        else:
            nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def list_reduced_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> set[int]:
    """Return the axes of a tensor with four; none if they are computed or left out."""
    import onnx

    if len(node.input) < 2 or node.input[1] not in constants:
        return set()
    return {int(axis) % 4 for axis in onnx.numpy_helper.to_array(constants[node.input[1]])}


def make_pooling_nodes(
    node: onnx.NodeProto, ranges: dict[str, tuple[float, float]]
) -> list[onnx.NodeProto]:
    """Return the nodes that take the place of a ReduceMean."""
    import onnx

    make_node, (result,) = onnx.helper.make_node, node.output
    if get_attribute(node, "keepdims", 1):
        return [make_node("GlobalAveragePool", [node.input[0]], [result], name=node.name)]
    inner = f"{result}_pooled"  # (N, C, 1, 1)
    if result in ranges:
        ranges[inner] = ranges[result]
    return [
        make_node("GlobalAveragePool", [node.input[0]], [inner], name=node.name),
        make_node("Flatten", [inner], [result], name=f"{node.name}_flat"),
    ]

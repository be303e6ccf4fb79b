"""A mean over all of an image, written as GlobalAveragePool: ONNX Runtime has an int8 kernel for that, none for ReduceMean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attar.engines.graphs.graphs import get_attribute, index_constants, infer_ranks

if TYPE_CHECKING:
    import onnx


def replace_global_means(model: onnx.ModelProto, ranges: dict[str, tuple[float, float]]) -> None:
    """Rewrite in place every ReduceMean over axes 2 and 3 of (N, C, H, W); a new tensor gets the range of the one it replaces.

    The dynamo exporter writes ``AdaptiveAvgPool2d(1)`` and ``x.mean((2, 3))`` as ReduceMean.
    """
    known, rank = index_constants(model), infer_ranks(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "ReduceMean" and rank.get(node.input[0]) == 4 and list_reduced_axes(node, known) == {2, 3}:
            nodes += make_pooling_nodes(node, ranges)
        else:
            nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def list_reduced_axes(node: onnx.NodeProto, known: dict[str, onnx.TensorProto]) -> set[int]:
    """Of a tensor with four axes; empty where they are computed, or all that are left out."""
    import onnx

    if len(node.input) < 2 or node.input[1] not in known:
        return set()
    return {int(axis) % 4 for axis in onnx.numpy_helper.to_array(known[node.input[1]])}


def make_pooling_nodes(node: onnx.NodeProto, ranges: dict[str, tuple[float, float]]) -> list[onnx.NodeProto]:
    import onnx

    make, (result,) = onnx.helper.make_node, node.output
    if get_attribute(node, "keepdims", 1):
        return [make("GlobalAveragePool", [node.input[0]], [result], name=node.name)]
    inner = f"{result}_pooled"  # (N, C, 1, 1)
    if result in ranges:
        ranges[inner] = ranges[result]
    return [
        make("GlobalAveragePool", [node.input[0]], [inner], name=node.name),
        make("Flatten", [inner], [result], name=f"{node.name}_flat"),
    ]

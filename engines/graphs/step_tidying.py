"""What exporters write into a step and need not be there, where a step is one token.

A step is small: each node counts, and so does a copy of the logits. The arithmetic stays the same,
bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.inspection import (
    get_attribute,
    index_constants,
    index_readers,
    infer_values,
    make_unused_suffix,
)

if TYPE_CHECKING:
    import onnx


def squeeze_selections(model: onnx.ModelProto) -> int:
    """Write each Gather of the only position of an axis as a Squeeze, in place.

    It moves nothing: the logits ``(B, 1, size)`` of one token are the step's largest tensor. Return
    how many were written.
    """
    import onnx

    constants, sizes = index_constants(model), infer_sizes(model)
    suffix, count = make_unused_suffix(model, ".axes"), 0
    for node in model.graph.node:
        index = constants.get(node.input[1]) if node.op_type == "Gather" else None
        axis, dims = get_attribute(node, "axis", 0), sizes.get(node.input[0], []) if index else []
        if index is None or list(index.dims) or not -len(dims) <= axis < len(dims):
            continue
        if dims[axis] != 1 or node.input[0] in constants:
            continue
        name = f"{node.output[0]}{suffix}"
        axes = onnx.numpy_helper.from_array(np.array([axis], np.int64), name)
        model.graph.initializer.append(axes)
        squeeze = onnx.helper.make_node("Squeeze", [node.input[0], name], node.output, node.name)
        node.CopyFrom(squeeze)
        count += 1
    return count


def infer_sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the axes of each tensor for which they can be inferred; 0 is an unknown size."""
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in infer_values(model)
    }


def hoist_scales(model: onnx.ModelProto) -> int:
    """Scale before the heads are split what is scaled after it, in place.

    ONNX Runtime joins a scale right before a product to the product, and its kernel for one row, as
    the query of one token is, then does not take it. Return how many scales were moved.
    """
    constants, readers = index_constants(model), index_readers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    count = 0
    for scale in list(model.graph.node):
        if scale.op_type != "Mul" or not is_scalar(constants.get(scale.input[1])):
            continue
        path: list[onnx.NodeProto] = []
        name = scale.input[0]
        while len(readers[name]) == 1 and getattr(makers.get(name), "op_type", "") in MOVES:
            path.append(makers[name])
            name = path[-1].input[0]
        if path:
            move_scale(model, scale, path)
            count += 1
    return count


MOVES = frozenset({"Transpose", "Reshape"})
"""Operators that move values and do not change them."""


def is_scalar(tensor: onnx.TensorProto | None) -> bool:
    return tensor is not None and not list(tensor.dims)


def move_scale(model: onnx.ModelProto, scale: onnx.NodeProto, path: list[onnx.NodeProto]) -> None:
    """Put the scale before the path that leads to it, last node first, in place."""
    result, last, first = scale.output[0], path[0], path[-1]
    scale.input[0], scale.output[0] = first.input[0], last.output[0]
    first.input[0], last.output[0] = scale.output[0], result
    moved = type(scale)()
    moved.CopyFrom(scale)
    model.graph.node.remove(scale)
    model.graph.node.insert(list(model.graph.node).index(first), moved)


def drop_moves_of_one(model: onnx.ModelProto) -> int:
    """Remove each Transpose beside a Reshape that moves no more than axes of size 1, in place.

    Of one token, ``(B, 1, heads, d)`` and ``(B, heads, 1, d)`` are the same values in the same
    order. Return how many were removed.
    """
    constants, sizes = index_constants(model), infer_sizes(model)
    count = 0
    for move in list(model.graph.node):
        perm = list(get_attribute(move, "perm", [])) if move.op_type == "Transpose" else []
        if perm and keeps_order(perm, sizes.get(move.input[0], [])):
            count += join_reshape(model, move, perm, constants)
    return count


def keeps_order(perm: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether the axes that may have more than one position stay in their order."""
    if len(perm) != len(sizes):
        return False
    larger = [axis for axis in perm if sizes[axis] != 1]
    return larger == sorted(larger)


def join_reshape(
    model: onnx.ModelProto,
    move: onnx.NodeProto,
    perm: Sequence[int],
    constants: Mapping[str, onnx.TensorProto],
) -> bool:
    """Let the Reshape before or after a Transpose do its work. Return whether there is one."""
    import onnx

    readers = index_readers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    before, after = makers.get(move.input[0]), readers[move.output[0]]
    if len(after) == 1 and copies_leading(after[0], perm, constants):
        after[0].input[0] = move.input[0]
    elif before and copies_leading(before, perm, constants) and len(readers[move.input[0]]) == 1:
        name = f"{move.output[0]}{make_unused_suffix(model, '.shape')}"
        shape = onnx.numpy_helper.to_array(constants[before.input[1]])[list(perm)]
        model.graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
        before.input[1], before.output[0] = name, move.output[0]
    else:
        return False
    model.graph.node.remove(move)
    return True


def copies_leading(
    node: onnx.NodeProto, perm: Sequence[int], constants: Mapping[str, onnx.TensorProto]
) -> bool:
    """Whether a node is a Reshape whose axes of size 0, which are copied, the Transpose keeps."""
    import onnx

    if node.op_type != "Reshape" or node.input[1] not in constants:
        return False
    fixed = next((place for place, axis in enumerate(perm) if place != axis), len(perm))
    zeros = np.flatnonzero(onnx.numpy_helper.to_array(constants[node.input[1]]) == 0)
    return not len(zeros) or bool(zeros.max() < fixed and not get_attribute(node, "allowzero", 0))

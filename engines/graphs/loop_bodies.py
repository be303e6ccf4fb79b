"""What the two loops of a graph that generates repeat: a phase of steps, and a step.

A tensor that a body reads and does not make is one of the graph around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.sequence_parts import START_PREFIX, SequenceParts, make_value

if TYPE_CHECKING:
    import onnx

SMALLEST_BLOCKED = 1024
"""Tokens of a vocabulary from which on the likeliest is looked for in two stages."""


def build_phase(parts: SequenceParts, vocabulary: int) -> onnx.GraphProto:
    """Return the steps with the same samples, after which those that have ended are left out."""
    import onnx

    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    carried = ["held_token", "held_place", "done_0", *(f"held_{name}" for name in parts.states)]
    results = [f"last_{name}" for name in ("token", "place", "done", *parts.states)]
    # What is selected: the token and the state that the steps left, and all else as it was held.
    selected = {"held_token": "last_token", "rows": "rows", "limits": "limits"}
    selected |= {name: name for name in parts.memory}
    selected |= {f"held_{name}": f"last_{name}" for name in parts.states}
    body = build_body(parts, vocabulary)
    nodes = [
        node("Shape", ["rows"], ["size"]),
        node("Mul", ["size", "leaving_part"], ["leaving_by_whole"]),
        node("Add", ["leaving_by_whole", "rounding_up"], ["leaving_rounded"]),
        node("Div", ["leaving_rounded", "share_whole"], ["enough_ended"]),
        node("Squeeze", ["enough_ended"], ["enough"]),
        node("Expand", ["false", "size"], ["done_0"]),
        node("Loop", ["longest", "true", *carried], [*results, "tokens"], body=body),
        node("Shape", ["tokens"], ["tokens_shape"]),
        node("Expand", ["rows", "tokens_shape"], ["columns"]),
        node("Shape", ["tokens"], ["turns"], start=0, end=1),
        node("Concat", ["turns", "samples"], ["block_shape"], axis=0),
        node("Expand", ["pad", "block_shape"], ["empty_block"]),
        node("ScatterElements", ["empty_block", "columns", "tokens"], ["block"], axis=1),
        node("Concat", ["path", "block"], ["next_path"], axis=0),
        node("Not", ["last_done"], ["stays"]),
        *(
            node("Compress", [source, "stays"], [f"next_{name}"], axis=0)
            for name, source in selected.items()
        ),
        node("Size", ["next_rows"], ["left"]),
        node("Greater", ["left", "zero"], ["phase_goes_on"]),
    ]
    kinds = {item.name: item.type.tensor_type.elem_type for item in parts.start.graph.output}
    integer = onnx.TensorProto.INT64
    types = {"held_place": integer, "path": integer} | {
        name: kinds.get(START_PREFIX + name.removeprefix("held_"), integer) for name in selected
    }
    inputs = [make_value("phase", "INT64", []), make_value("is_in_phase", "BOOL", [])]
    inputs += [value(name, kind, None) for name, kind in types.items()]
    outputs = [make_value("phase_goes_on", "BOOL", []), make_value("last_place", "INT64", [1])]
    outputs += [value(f"next_{name}", types[name], None) for name in ("path", *selected)]
    return onnx.helper.make_graph(nodes, "phase", inputs, outputs)


def build_body(parts: SequenceParts, vocabulary: int) -> onnx.GraphProto:
    """Return one iteration: a step, the most likely token, and whether enough samples go on."""
    import onnx

    node, integer = onnx.helper.make_node, onnx.TensorProto.INT64
    samples = [
        node("Where", ["done", "pad", "likely"], ["next_token"]),
        node("Equal", ["next_token", "end"], ["has_ended"]),
        node("Add", ["place", "one"], ["next_place"]),
        node("GreaterOrEqual", ["next_place", "limits"], ["is_at_limit"]),
        node("Or", ["done", "has_ended"], ["done_by_token"]),
        node("Or", ["done_by_token", "is_at_limit"], ["next_done"]),
        node("Cast", ["next_done"], ["done_integer"], to=integer),
        node("ReduceSum", ["done_integer"], ["ended"], keepdims=0),
        node("Less", ["ended", "enough"], ["goes_on"]),
        node("Identity", ["next_token"], ["token_of_step"]),
    ]
    before: list[tuple[str, str, Sequence[int | str]]] = [
        ("token", "INT64", ["samples"]),
        ("place", "INT64", [1]),
        ("done", "BOOL", ["samples"]),
    ]
    states = {value.name: value for value in parts.step.graph.input}
    inputs = [make_value("turn", "INT64", []), make_value("is_running", "BOOL", [])]
    inputs += [make_value(*each) for each in before]
    next_states = {value.name: value for value in parts.step.graph.output}
    for name in parts.states:
        kind = next_states[f"next_{name}"].type.tensor_type.elem_type
        unread = onnx.helper.make_tensor_value_info(name, kind, None)
        inputs.append(states.get(name, unread))
    outputs = [make_value("goes_on", "BOOL", [])]
    outputs += [make_value(f"next_{name}", dtype, shape) for name, dtype, shape in before]
    outputs += [next_states[f"next_{name}"] for name in parts.states]
    outputs.append(make_value("token_of_step", "INT64", ["samples"]))
    choice, sizes = build_choice(vocabulary)
    # In the graph that reads them: as weights of a graph further out, MatMulNBits is slower and
    # rounds otherwise than in the step alone.
    weights = [*parts.step.graph.initializer, *sizes]
    nodes = [*parts.step.graph.node, *choice, *samples]
    return onnx.helper.make_graph(nodes, "step", inputs, outputs, weights)


def build_choice(vocabulary: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes from `logits` to `likely`, the first of the largest, and their constants.

    ONNX Runtime's ReduceMax is eight times as fast as its ArgMax. So the largest of each
    block of a large vocabulary is found first, then the place in the first block that has the
    largest of all: the same token.
    """
    import onnx

    node = onnx.helper.make_node
    block = find_block(vocabulary)
    if block is None:
        return [node("ArgMax", ["logits"], ["likely"], axis=1, keepdims=0)], []
    nodes = [
        node("Reshape", ["logits", "blocks_shape"], ["blocks"]),
        node("ReduceMax", ["blocks", "block_axis"], ["largest"], keepdims=0),
        node("ArgMax", ["largest"], ["best_block"], axis=1, keepdims=1),
        node("GatherND", ["blocks", "best_block"], ["candidates"], batch_dims=1),
        node("ArgMax", ["candidates"], ["place_in_block"], axis=1, keepdims=0),
        node("Squeeze", ["best_block", "axis_1"], ["block_number"]),
        node("Mul", ["block_number", "block_width"], ["block_begin"]),
        node("Add", ["block_begin", "place_in_block"], ["likely"]),
    ]
    values = {
        "blocks_shape": np.array([0, -1, block]),
        "block_axis": np.array([2]),
        "block_width": np.array(block),
    }
    constants = [
        onnx.numpy_helper.from_array(value.astype(np.int64), name) for name, value in values.items()
    ]
    return nodes, constants


def find_block(vocabulary: int) -> int | None:
    """Return the largest divisor up to the square root, None where blocks would not help."""
    divisors = [size for size in range(8, isqrt(vocabulary) + 1) if vocabulary % size == 0]
    return divisors[-1] if divisors and vocabulary >= SMALLEST_BLOCKED else None

"""Faults of the graphs of a network that generates: of its loop over tokens, or of one of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from attar.engines.graphs.assembly import LOOP_PREFIX
from attar.models.tasks.numbers import END
from tests.system.sabotage.graphs import constant, rewrite


def begins_with_end(model: onnx.ModelProto) -> None:
    set_constant(model, "begin", END)


def second_place_first(model: onnx.ModelProto) -> None:
    set_constant(model, "place_0", 1)


def limit_too_short(model: onnx.ModelProto) -> None:
    set_constant(model, "offset", 0)


def limit_too_long(model: onnx.ModelProto) -> None:
    set_constant(model, "offset", 2)


def state_of_another(model: onnx.ModelProto) -> None:
    """A sentence begins with a state that is not empty: one token of the sentence before."""
    loop, shapes = find_loop(model.graph), {shorten(value.name): value for value in find_body(model).input}
    states = [place for place, name in enumerate(loop.input) if shorten(name).startswith("state_")]
    for place in states:
        dims = shapes[shorten(loop.input[place])].type.tensor_type.shape.dim
        _, heads, _, width = (dim.dim_value for dim in dims)
        kept = 4 * np.random.default_rng(place).standard_normal((1, heads, 1, width))
        sizes = constant(model, [heads, 1, width])
        added = [
            onnx.helper.make_node("Concat", [f"{LOOP_PREFIX}samples", sizes], [f"kept_shape_{place}"], axis=0),
            onnx.helper.make_node("Expand", [constant(model, kept), f"kept_shape_{place}"], [f"kept_{place}"]),
        ]
        loop.input[place] = f"kept_{place}"
        put_before(model, loop, added)


def feeds_older_token_back(model: onnx.ModelProto) -> None:
    """The next step reads the token that came before the last one."""
    body = find_body(model)
    body.node.append(onnx.helper.make_node("Identity", [body.input[2].name], ["older_token"]))
    body.output[1].name = "older_token"


def goes_on_after_end(model: onnx.ModelProto) -> None:
    """What follows an end token is no padding, while other samples of the batch go on."""
    find_maker(find_body(model), f"{LOOP_PREFIX}next_token").input[0] = "never"
    model.graph.initializer.append(numpy_helper.from_array(np.array(False), "never"))


def ends_with_first(model: onnx.ModelProto) -> None:
    """All samples of a batch end when the first of them have ended."""
    last = find_maker(find_phase(model), f"{LOOP_PREFIX}phase_goes_on")
    last.input[1] = last.input[0]  # nothing is more than itself


def head_rows_moved(model: onnx.ModelProto) -> None:
    """The int8 weights of each word belong to the one before."""
    change_head(model, 1, lambda packed: np.roll(packed, 1, 0))


def head_scale_quartered(model: onnx.ModelProto) -> None:
    """One word has a quarter of its scale."""

    def quarter(scales: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.where(np.arange(len(scales.ravel())) == WORD, scales.ravel() / 4, scales.ravel()).reshape(scales.shape)

    change_head(model, 2, quarter)


WORD = 20
"""The number of a word that every sentence may have."""


def wrong_place(model: onnx.ModelProto) -> None:
    """The step reads the place after its own."""
    one = constant(model, [1])
    for node in model.graph.node:
        node.input[:] = ["late_place" if name == "place" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["place", one], ["late_place"]))


def padding_shown(model: onnx.ModelProto) -> None:
    """The start hides nothing of the source: its mask is zero."""
    maker = find_maker(model.graph, "memory_0")
    maker.output[0] = "honest_mask"
    shown = onnx.helper.make_node("Mul", ["honest_mask", constant(model, 0.0)], ["memory_0"])
    for node in model.graph.node:
        node.input[:] = ["honest_mask" if name == "memory_0" else name for name in node.input]
    model.graph.node.append(shown)


def padding_of_another(model: onnx.ModelProto) -> None:
    """Padding holds the first token of the batch, and nothing hides it."""
    padding_shown(model)
    place, maker = next(
        (place, node) for place, node in enumerate(model.graph.node) if node.output[0].startswith("row_of_position")
    )
    rows, tokens = maker.output[0], maker.output[0].replace("row_of_position", "ones")
    maker.output[0] = "honest_rows"
    model.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["honest_rows", tokens], [rows]))


def set_constant(model: onnx.ModelProto, name: str, value: int) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == LOOP_PREFIX + name)
    rewrite(tensor, np.full_like(numpy_helper.to_array(tensor), value))


def find_loop(graph: onnx.GraphProto) -> onnx.NodeProto:
    loops: list[onnx.NodeProto] = [node for node in graph.node if node.op_type == "Loop"]
    return loops[0]


def find_phase(model: onnx.ModelProto) -> onnx.GraphProto:
    """The steps with the same samples: the body of the outer loop."""
    return find_inside(find_loop(model.graph))


def find_body(model: onnx.ModelProto) -> onnx.GraphProto:
    """One step: the body of the inner loop."""
    return find_inside(find_loop(find_phase(model)))


def find_inside(loop: onnx.NodeProto) -> onnx.GraphProto:
    bodies: list[onnx.GraphProto] = [each.g for each in loop.attribute if each.name == "body"]
    return bodies[0]


def shorten(name: str) -> str:
    """A tensor's name without the prefixes of its graph."""
    return name.rpartition("/")[2]


def find_maker(graph: onnx.GraphProto, tensor: str) -> onnx.NodeProto:
    makers: list[onnx.NodeProto] = [node for node in graph.node if tensor in node.output]
    return makers[0]


def put_before(model: onnx.ModelProto, node: onnx.NodeProto, added: list[onnx.NodeProto]) -> None:
    place = next(number for number, each in enumerate(model.graph.node) if each.output[0] == node.output[0])
    for new in reversed(added):
        model.graph.node.insert(place, new)


def change_head(model: onnx.ModelProto, which: int, change: Any) -> None:
    """Change the weights (1) or the scales (2) of the product that the logits are."""
    head = [node for node in model.graph.node if node.op_type == "MatMulNBits"][-1]
    tensor = next(each for each in model.graph.initializer if each.name == head.input[which])
    rewrite(tensor, change(numpy_helper.to_array(tensor)))

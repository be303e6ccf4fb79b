"""The softmax between a network's logits and an output of probabilities."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from attar.engines.graphs.inspection import iterate_nodes
from attar.models.task import Task

if TYPE_CHECKING:
    import onnx

LOGITS = ".logits"
KEEPS_PROBABILITIES = {
    "QuantizeLinear",
    "DequantizeLinear",
    "Cast",
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
}
"""Operators after which probabilities are still probabilities, but for rounding."""


def find_final_softmaxes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that make probabilities which are outputs."""
    outputs = {value.name for value in model.graph.output}
    return [
        node for node in model.graph.node if node.op_type == "Softmax" and node.output[0] in outputs
    ]


def find_maker(model: onnx.ModelProto, output: str) -> str:
    """Return the operator that gives this output, but for rounding and changes of shape; empty for
    an input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in KEEPS_PROBABILITIES:
        node = makers.get(node.input[0])
    return "" if node is None else str(node.op_type)


def list_probabilities(task: Task) -> list[str]:
    """Return the names of the outputs that are probabilities."""
    return [name for name, output in task.outputs.items() if output.kind == "probabilities"]


def append_softmax(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Turn these outputs, which are logits, into probabilities, in place."""
    import onnx

    for name in outputs:
        logits = name + LOGITS
        rename_tensor(model.graph, name, logits)
        softmax = onnx.helper.make_node("Softmax", [logits], [name], f"{name}.softmax", axis=-1)
        model.graph.node.append(softmax)


def remove_softmax(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Turn these outputs, which are probabilities, into logits again, in place.

    The logits keep their name: they may be an input or an output of the graph themselves.
    """
    for node in find_final_softmaxes(model):
        if node.output[0] in outputs:
            node.op_type = "Identity"
            node.ClearField("attribute")


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename what nodes read and make, inside of nodes too.

    The graph's own inputs and outputs keep their names.
    """
    for node in iterate_nodes(graph):
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new

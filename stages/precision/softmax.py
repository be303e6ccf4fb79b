"""Softmax: what stands between a network's logits and an output of probabilities, put behind a graph and taken away again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from attar.models.task import Task

if TYPE_CHECKING:
    import onnx

LOGITS = ".logits"


def find_final_softmaxes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that make probabilities which are outputs."""
    outputs = {value.name for value in model.graph.output}
    return [node for node in model.graph.node if node.op_type == "Softmax" and node.output[0] in outputs]


def list_probabilities(task: Task) -> list[str]:
    """Return the names of the outputs that are probabilities."""
    return [name for name, output in task.outputs.items() if output.kind == "probabilities"]


def append_softmax(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Let these outputs, which are logits, be probabilities, in place."""
    import onnx

    for name in outputs:
        rename_tensor(model.graph, name, name + LOGITS)
        model.graph.node.append(onnx.helper.make_node("Softmax", [name + LOGITS], [name], f"{name}.softmax", axis=-1))


def remove_softmax(model: onnx.ModelProto, outputs: Collection[str]) -> None:
    """Let these outputs, which are probabilities, be logits again, in place."""
    for node in [each for each in find_final_softmaxes(model) if each.output[0] in outputs]:
        logits, name = node.input[0], node.output[0]
        model.graph.node.remove(node)
        rename_tensor(model.graph, logits, name)


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename what nodes read and make, inside of nodes too; the graph's own inputs and outputs keep their names."""
    for node in every_node(graph):
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from every_node(inner)

"""Copies of initializers, for nodes that need their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from itertools import count
from typing import TYPE_CHECKING

from attar.engines.graphs.inspection import list_subgraph_reads

if TYPE_CHECKING:
    import onnx

COPY = ".copy"


class InitializerCopies:
    """The initializers of a graph, to which copies under new names are added."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self.reads = count_reads(model)
        self.names = {*self.reads, *self.initializers}

    def copy(self, name: str) -> str:
        """Add a copy of an initializer, and return its name."""
        tensor = self.graph.initializer.add()
        tensor.CopyFrom(self.initializers[name])
        candidates = (f"{name}{COPY}{number}" for number in count(1))
        tensor.name = next(candidate for candidate in candidates if candidate not in self.names)
        self.names.add(tensor.name)
        self.initializers[tensor.name] = tensor
        return str(tensor.name)

    def scale(self, name: str, factor: float) -> str:
        """Multiply an initializer by a number, a copy of it if it is read more than once."""
        import onnx

        if self.reads[name] > 1:
            self.reads[name] -= 1
            name = self.copy(name)
        tensor = self.initializers[name]
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array * array.dtype.type(factor), name))
        return name


def count_reads(model: onnx.ModelProto) -> Counter[str]:
    """Return how often each tensor is read. To be an output of the graph counts as one read."""
    reads = Counter(output.name for output in model.graph.output)
    for node in model.graph.node:
        reads.update((*node.input, *list_subgraph_reads(node)))
        reads.update(dict.fromkeys(node.output, 0))
    return reads


def find_original(name: str, known: Container[str]) -> str:
    """Return the tensor of which this one is a copy, or itself if it is known."""
    return name if name in known else name.rpartition(COPY)[0]

"""Sources of a batch are as long as the longest of them; what works row by row skips the padding.

Of 32 sentences of different lengths two thirds may be padding. Products by weights, norms and
activations read each position by itself: they read the positions that hold a token alone, one
below the other, ``(N, width)`` in place of ``(batch, S, width)``. What looks at several positions,
as an attention does, reads the whole tensor again, in which padding holds the row of another
position: a network that generates must not read it. CTranslate2 and FasterTransformer do the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.engines.graphs.inspection import (
    get_attribute,
    index_constants,
    list_subgraph_reads,
    make_unused_suffix,
)
from attar.models.generation import Decoding

if TYPE_CHECKING:
    import onnx

ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Erf", "Tanh"),
        *("Relu", "Gelu", "Sigmoid", "Cast", "Identity"),
    }
)
LAST_AXES = frozenset({-1, 2})
Sizes = tuple[tuple[int, int], tuple[int, int]]
"""Batch and length of the source in two calls, in which the shapes of all tensors are seen."""
Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""The shapes of each tensor in both calls."""


@dataclass
class Rows:
    """The graph `start` while it is written anew."""

    source: str
    sizes: Sizes
    shapes: Shapes
    constants: Mapping[str, onnx.TensorProto]
    suffix: str
    whole: set[str]
    """Tensors that exist as ``(batch, S, width)``."""
    gathered: set[str] = field(default_factory=set)
    """Tensors that exist as ``(N, width)``, under their name and the suffix."""
    products: int = 0
    """Products that skip padding."""

    @property
    def index(self) -> str:
        """What the names of `build_index` end in; no tensor's rows have such a name."""
        return 2 * self.suffix

    def has_rows(self, name: str) -> bool:
        """Whether a tensor is ``(batch, S, width)``."""
        return all(
            len(shape) == 3 and shape[:2] == size
            for shape, size in zip(self.shapes.get(name, ((), ())), self.sizes, strict=True)
        )

    def has_places(self, name: str) -> bool:
        """Whether a tensor is ``(S, width)`` or ``(1, S, width)``: the same for all samples."""
        return all(
            len(shape) in (2, 3) and shape[:-1] in ((size[1],), (1, size[1]))
            for shape, size in zip(self.shapes.get(name, ((), ())), self.sizes, strict=True)
        )

    def is_rowwise(self, node: onnx.NodeProto) -> bool:
        """Whether each row of a node's result needs the same row of what it reads, and no other."""
        if not self.has_rows(node.output[0]):
            return False
        if node.op_type == "Gather":
            return node.input[0] in self.constants and node.input[1] == self.source
        if node.op_type == "MatMul":
            weight = self.constants.get(node.input[1])
            return weight is not None and len(weight.dims) == 2 and self.has_rows(node.input[0])
        if node.op_type == "LayerNormalization":
            is_last = get_attribute(node, "axis", -1) in LAST_AXES and self.has_rows(node.input[0])
            return is_last and set(node.input[1:]) <= self.constants.keys()
        return node.op_type in ELEMENTWISE and all(map(self.is_readable, node.input))

    def is_readable(self, name: str) -> bool:
        """Whether an elementwise operator may read a tensor's rows.

        What is not gathered by then, such as a mask, may stand there for the sake of padding.
        """
        constant = self.constants.get(name)
        if constant is not None:
            return len(constant.dims) < 2
        return name in self.gathered or self.has_places(name)

    def write_nodes(self, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of the graph, and between them those that gather and spread rows."""
        for node in graph.node:
            if not self.is_rowwise(node):
                for name in (*node.input, *list_subgraph_reads(node)):
                    yield from self.spread_rows(name)
                yield node
                self.whole.update(node.output)
                continue
            for name in node.input:
                yield from self.gather_rows(name)
            self.gathered.add(node.output[0])
            self.products += node.op_type == "MatMul"
            changed = type(node)()
            changed.CopyFrom(node)
            changed.input[:] = [self.find_rows(name) for name in node.input]
            changed.output[0] += self.suffix
            yield changed
        for output in graph.output:
            yield from self.spread_rows(output.name)

    def find_rows(self, name: str) -> str:
        return name + self.suffix if name in self.gathered else name

    def spread_rows(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the node that makes ``(batch, S, width)``, where it is not yet there."""
        import onnx

        if name in self.gathered and name not in self.whole:
            self.whole.add(name)
            inputs = [name + self.suffix, "row_of_position" + self.index]
            yield onnx.helper.make_node("Gather", inputs, [name], f"{name}.spread{self.suffix}")

    def gather_rows(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that make ``(N, width)``, where it is not yet there."""
        import onnx

        if name in self.gathered or name in self.constants:
            return
        self.gathered.add(name)
        make, result = onnx.helper.make_node, name + self.suffix
        called = f"{name}.gather{self.suffix}"
        if name == self.source or self.has_rows(name):
            yield make("GatherND", [name, "positions" + self.index], [result], called)
        elif len(self.shapes[name][0]) == 2:
            yield make("Gather", [name, "places" + self.index], [result], called)
        else:
            flat = name + 3 * self.suffix
            yield make("Squeeze", [name, "axis_0" + self.index], [flat], f"{called}.flat")
            yield make("Gather", [flat, "places" + self.index], [result], called)


def remove_padding(model: onnx.ModelProto, decoding: Decoding, shapes: Shapes, sizes: Sizes) -> int:
    """Let all that works row by row skip the padding of the source, in place.

    ``model`` is the graph `start` in float, ``shapes`` what its tensors have in two calls of the
    ``sizes`` (batch, length). Return how many products skip it; without one nothing is changed.
    """
    constants, suffix = index_constants(model), make_unused_suffix(model, ".rows")
    given = {value.name for value in model.graph.input}
    rows = Rows(str(decoding.source), sizes, shapes, constants, suffix, given)
    nodes = [*build_index(decoding, rows.index), *rows.write_nodes(model.graph)]
    if not rows.products:
        return 0
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    dtype = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    model.graph.initializer.extend(make_constants(decoding, rows.index, dtype[rows.source]))
    return rows.products


def build_index(decoding: Decoding, suffix: str) -> list[onnx.NodeProto]:
    """Return the nodes that find out which positions are kept, and where each of them is.

    A sample of padding alone keeps all of it: an attention that hides everything looks at it.
    `positions` is ``(N, 2)``, `places` ``(N)``; `row_of_position` is ``(batch, S)``; for
    padding it is the row before it, or the last of all.
    """
    import onnx

    source = str(decoding.source)
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Equal", [source, "pad"], "is_pad", {}),
        ("Not", ["is_pad"], "is_token", {}),
        ("Cast", ["is_token"], "token_ones", {"to": onnx.TensorProto.INT64}),
        ("ReduceSum", ["token_ones", "axis_1"], "tokens", {"keepdims": 1}),
        ("Equal", ["tokens", "zero"], "is_empty", {}),
        ("Or", ["is_token", "is_empty"], "is_kept", {}),
        ("NonZero", ["is_kept"], "kept", {}),
        ("Transpose", ["kept"], "positions", {"perm": [1, 0]}),
        ("Gather", ["kept", "one"], "places", {"axis": 0}),
        ("Cast", ["is_kept"], "ones", {"to": onnx.TensorProto.INT64}),
        ("Reshape", ["ones", "flat_shape"], "flat_ones", {}),
        ("CumSum", ["flat_ones", "zero"], "counts", {}),
        ("Sub", ["counts", "one"], "rows", {}),
        ("Shape", [source], "source_shape", {}),
        ("Reshape", ["rows", "source_shape"], "row_of_position", {}),
    ]
    return [
        onnx.helper.make_node(
            operator,
            [name if name == source else name + suffix for name in inputs],
            [output + suffix],
            output + suffix,
            **attributes,
        )
        for operator, inputs, output, attributes in steps
    ]


def make_constants(decoding: Decoding, suffix: str, dtype: int) -> list[onnx.TensorProto]:
    import onnx

    pad = np.array(decoding.source_pad, onnx.helper.tensor_dtype_to_np_dtype(dtype))
    values = {
        "pad": pad,
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "flat_shape": np.array([-1], np.int64),
        "axis_0": np.array([0], np.int64),
        "axis_1": np.array([1], np.int64),
    }
    return [onnx.numpy_helper.from_array(value, name + suffix) for name, value in values.items()]

"""Half precision: chosen nodes of a float graph compute in float16, with casts where the two meet.

A tensor NAME stays float, and NAME_half is the same in half precision (with more underscores where names end so already); each
exists only where something reads it. So two nodes that stay float hand a tensor on in float, however large it is, and inputs and
outputs are what they were. (ONNX Runtime's own converter, ``onnxruntime.transformers.float16``, casts every result of such a node
to half and back, which overflows again.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.stages.precision.graphs import constants, element_types, in_order, read_inside, unused
from attar.stages.precision.softmax import find_final_softmaxes

if TYPE_CHECKING:
    import onnx

HALF = "_half"
LARGEST = 65504.0
MARGIN = 2.0  # between what training data reach and what half precision holds
SQUARING = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization", "ReduceL2", "ReduceSumSquare"}
)
"""What squares its input and shows only the root: where that overflows depends on the runtime."""


@dataclass(frozen=True)
class Places:
    """The inputs and outputs of a node that change their type."""

    inputs: Sequence[int]
    outputs: Sequence[int]


def halve(model: onnx.ModelProto, wanted: Collection[str]) -> set[str]:
    """Let these nodes compute in half precision, in place. Returns those for which their operator allows it.

    Probabilities that are an output stay float: below 6e-8 half precision has none.
    """
    if not wanted:
        return set()
    nodes = in_order(model)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    types, versions = element_types(model), {each.domain: each.version for each in model.opset_import}
    final = {node.output[0] for node in find_final_softmaxes(model)}
    able = [node for node in nodes if node.name in wanted and node.output[0] not in final]
    chosen = {node.name: places(node, types, versions) for node in able}
    rewriting = Rewriting(model)
    for node in nodes:
        rewriting.add(node, chosen.get(node.name))
    rewriting.finish()
    return {name for name, place in chosen.items() if place is not None}


def places(node: onnx.NodeProto, types: Mapping[str, int], versions: Mapping[str, int]) -> Places | None:
    """None where an operator has no half form, where the type of its result does not follow what it reads, or is not known."""
    import onnx

    named = [name for name in (*node.input, *node.output) if name]
    if read_inside(node) or any(name not in types for name in named):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None  # an operator of another domain
    possible = {each.type_param_str for each in schema.type_constraints if "tensor(float16)" in each.allowed_type_strs}
    reads, gives = (floats(*each, types) for each in ((schema.inputs, node.input), (schema.outputs, node.output)))
    inputs = {place: variable for place, variable in reads.items() if variable in possible}
    follows = gives and set(gives.values()) <= set(inputs.values())
    return Places(list(inputs), list(gives)) if follows else None


def floats(formal: Sequence[Any], names: Iterable[str], types: Mapping[str, int]) -> dict[int, str]:
    """By its place, the type variable of every float tensor. The last formal parameter may stand for several."""
    import onnx

    found = [(place, formal[min(place, len(formal) - 1)].type_str, name) for place, name in enumerate(names)]
    return {place: variable for place, variable, name in found if name and types[name] == onnx.TensorProto.FLOAT}


class Rewriting:
    """The nodes of a graph, one after the other, each after those it reads."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.ending = unused(model, HALF)
        self.constants = constants(model)
        self.halves: set[str] = set()
        """Tensors that are there in half precision."""
        self.missing: set[str] = set()
        """Those of them that are not there in float."""
        self.nodes: list[onnx.NodeProto] = []

    def add(self, node: onnx.NodeProto, chosen: Places | None) -> None:
        found = chosen or Places([], [])
        for place, name in enumerate(node.input):
            if place in found.inputs:
                node.input[place] = self.as_half(name)
            else:
                self.as_float(name)
        for name in read_inside(node):
            self.as_float(name)
        for place in found.outputs:
            name = node.output[place]
            self.halves.add(name)
            self.missing.add(name)
            node.output[place] = self.half(name)
        self.nodes.append(node)

    def half(self, name: str) -> str:
        return name + self.ending

    def as_half(self, name: str) -> str:
        import onnx

        if name not in self.halves:
            self.halves.add(name)
            if name in self.constants:
                with np.errstate(over="ignore"):  # too large a weight is found as infinity, like any other tensor
                    values = onnx.numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(onnx.numpy_helper.from_array(values, self.half(name)))
            else:
                self.nodes.append(cast(name, self.half(name), onnx.TensorProto.FLOAT16))
        return self.half(name)

    def as_float(self, name: str) -> None:
        import onnx

        if name in self.missing:
            self.missing.discard(name)
            self.nodes.append(cast(self.half(name), name, onnx.TensorProto.FLOAT))

    def finish(self) -> None:
        """The outputs in float; weights that nothing reads in float any more are dropped."""
        for output in self.graph.output:
            self.as_float(output.name)
        read = {name for node in self.nodes for name in (*node.input, *read_inside(node))}
        idle = {name for name in self.halves & self.constants.keys() if name not in read}
        idle -= {output.name for output in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in idle]
        nodes = [node for node in self.nodes if node.output[0] not in idle]
        for field, left in (("initializer", kept), ("node", nodes)):
            copies = [type(each).FromString(each.SerializeToString()) for each in left]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)


def as_written(model: onnx.ModelProto) -> onnx.ModelProto:
    """In place: every half result behind an Identity, so that a CPU rounds it.

    ONNX Runtime's CPU provider has few kernels for half precision. It computes the others in float between casts of its own, and
    where two casts meet it drops both, with all optimizations off as well: what overflows would be right, and no rounding seen.
    """
    import onnx

    types, ending, nodes = element_types(model), unused(model, "_exact"), []
    for node in model.graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if types.get(name) == onnx.TensorProto.FLOAT16:
                node.output[place] = name + ending
                nodes.append(onnx.helper.make_node("Identity", [name + ending], [name]))
    copies = [type(each).FromString(each.SerializeToString()) for each in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)
    return model


def cast(source: str, target: str, element_type: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=element_type)


def too_wide(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Nodes whose tensors or weights half precision cannot hold, by what they reach on training data, each with the reason."""
    import onnx

    reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    reach |= {name: largest(onnx.numpy_helper.to_array(tensor)) for name, tensor in constants(model).items()}
    found = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            limit = LARGEST / MARGIN
            if node.op_type in SQUARING and name in node.input[:1]:
                limit = math.sqrt(limit)
            if reach.get(name, 0) > limit:
                found[node.name] = f"{name!r} reaches {reach[name]:.3g}"
    return found


def largest(values: np.ndarray[Any, Any]) -> float:
    """The largest finite magnitude of floats; infinity has its place in half precision."""
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0))

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

from attar.engines.graphs.graphs import index_constants, infer_element_types, list_subgraph_reads, make_unused_suffix, sort_nodes
from attar.engines.graphs.softmax import find_final_softmaxes

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
class FloatSlots:
    """The inputs and outputs of a node that change their type."""

    inputs: Sequence[int]
    outputs: Sequence[int]


def convert_to_fp16(model: onnx.ModelProto, wanted: Collection[str]) -> set[str]:
    """Let these nodes compute in half precision, in place. Returns those for which their operator allows it.

    Probabilities that are an output stay float: below 6e-8 half precision has none.
    """
    if not wanted:
        return set()
    nodes = sort_nodes(model)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    types, versions = infer_element_types(model), {each.domain: each.version for each in model.opset_import}
    final = {node.output[0] for node in find_final_softmaxes(model)}
    able = [node for node in nodes if node.name in wanted and node.output[0] not in final]
    chosen = {node.name: find_float_slots(node, types, versions) for node in able}
    rewriting = Fp16Rewriter(model)
    for node in nodes:
        rewriting.add_node(node, chosen.get(node.name))
    rewriting.finish_graph()
    return {name for name, place in chosen.items() if place is not None}


def find_float_slots(node: onnx.NodeProto, types: Mapping[str, int], versions: Mapping[str, int]) -> FloatSlots | None:
    """None where an operator has no half form, where the type of its result does not follow what it reads, or is not known."""
    import onnx

    named = [name for name in (*node.input, *node.output) if name]
    if list_subgraph_reads(node) or any(name not in types for name in named):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None  # an operator of another domain
    possible = {each.type_param_str for each in schema.type_constraints if "tensor(float16)" in each.allowed_type_strs}
    reads, gives = (index_float_variables(*each, types) for each in ((schema.inputs, node.input), (schema.outputs, node.output)))
    inputs = {place: variable for place, variable in reads.items() if variable in possible}
    follows = gives and set(gives.values()) <= set(inputs.values())
    return FloatSlots(list(inputs), list(gives)) if follows else None


def index_float_variables(formal: Sequence[Any], names: Iterable[str], types: Mapping[str, int]) -> dict[int, str]:
    """By its place, the type variable of every float tensor. The last formal parameter may stand for several."""
    import onnx

    found = [(place, formal[min(place, len(formal) - 1)].type_str, name) for place, name in enumerate(names)]
    return {place: variable for place, variable, name in found if name and types[name] == onnx.TensorProto.FLOAT}


class Fp16Rewriter:
    """The nodes of a graph, one after the other, each after those it reads."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.ending = make_unused_suffix(model, HALF)
        self.constants = index_constants(model)
        self.halves: set[str] = set()
        """Tensors that are there in half precision."""
        self.missing: set[str] = set()
        """Those of them that are not there in float."""
        self.nodes: list[onnx.NodeProto] = []

    def add_node(self, node: onnx.NodeProto, chosen: FloatSlots | None) -> None:
        found = chosen or FloatSlots([], [])
        for place, name in enumerate(node.input):
            if place in found.inputs:
                node.input[place] = self.require_half(name)
            else:
                self.require_float(name)
        for name in list_subgraph_reads(node):
            self.require_float(name)
        for place in found.outputs:
            name = node.output[place]
            self.halves.add(name)
            self.missing.add(name)
            node.output[place] = self.half_name(name)
        self.nodes.append(node)

    def half_name(self, name: str) -> str:
        return name + self.ending

    def require_half(self, name: str) -> str:
        import onnx

        if name not in self.halves:
            self.halves.add(name)
            if name in self.constants:
                with np.errstate(over="ignore"):  # too large a weight is found as infinity, like any other tensor
                    values = onnx.numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.graph.initializer.append(onnx.numpy_helper.from_array(values, self.half_name(name)))
            else:
                self.nodes.append(make_cast(name, self.half_name(name), onnx.TensorProto.FLOAT16))
        return self.half_name(name)

    def require_float(self, name: str) -> None:
        import onnx

        if name in self.missing:
            self.missing.discard(name)
            self.nodes.append(make_cast(self.half_name(name), name, onnx.TensorProto.FLOAT))

    def finish_graph(self) -> None:
        """The outputs in float; weights that nothing reads in float any more are dropped."""
        for output in self.graph.output:
            self.require_float(output.name)
        read = {name for node in self.nodes for name in (*node.input, *list_subgraph_reads(node))}
        idle = {name for name in self.halves & self.constants.keys() if name not in read}
        idle -= {output.name for output in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in idle]
        nodes = [node for node in self.nodes if node.output[0] not in idle]
        for field, left in (("initializer", kept), ("node", nodes)):
            copies = [type(each).FromString(each.SerializeToString()) for each in left]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)


def round_half_results(model: onnx.ModelProto) -> onnx.ModelProto:
    """In place: every half result behind an Identity, so that a CPU rounds it.

    ONNX Runtime's CPU provider has few kernels for half precision. It computes the others in float between casts of its own, and
    where two casts meet it drops both, with all optimizations off as well: what overflows would be right, and no rounding seen.
    """
    import onnx

    types, ending, nodes = infer_element_types(model), make_unused_suffix(model, "_exact"), []
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


def make_cast(source: str, target: str, element_type: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=element_type)


def find_overflowing_nodes(model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Nodes whose tensors or weights half precision cannot hold, by what they reach on training data, each with the reason."""
    import onnx

    reach = {name: max(abs(low), abs(high)) for name, (low, high) in ranges.items()}
    reach |= {name: find_largest_magnitude(onnx.numpy_helper.to_array(tensor)) for name, tensor in index_constants(model).items()}
    found = {}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            limit = LARGEST / MARGIN
            if node.op_type in SQUARING and name in node.input[:1]:
                limit = math.sqrt(limit)
            if reach.get(name, 0) > limit:
                found[node.name] = f"{name!r} reaches {reach[name]:.3g}"
    return found


def find_largest_magnitude(values: np.ndarray[Any, Any]) -> float:
    """The largest finite magnitude of floats; infinity has its place in half precision."""
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0))

"""Chosen nodes of a float graph compute in half precision, with casts where the two meet.

A tensor NAME stays float, and NAME_half is the same in half precision (with more underscores where
names end so already). Each exists only where a node reads it: two nodes that stay float pass a
tensor on in float, however large it is, and inputs and outputs are what they were. ONNX Runtime's
own converter, ``onnxruntime.transformers.float16``, casts every result of such a node to half and
back, which overflows again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.engines.graphs.inspection import (
    index_constants,
    infer_element_types,
    list_subgraph_reads,
    make_unused_suffix,
)
from attar.engines.graphs.overflow import find_overflowing_nodes
from attar.engines.graphs.preparation import clear_metadata, prepare_graph, sort_nodes
from attar.engines.graphs.softmax import find_final_softmaxes
from attar.pipeline.core.stage import Facts

if TYPE_CHECKING:
    import onnx

HALF = "_half"


@dataclass(frozen=True)
class FloatSlots:
    """The places of a node's inputs and outputs that change their type."""

    inputs: Sequence[int]
    outputs: Sequence[int]


def convert_to_fp16(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """Let these nodes compute in half precision, in place, and return those that can.

    Probabilities that are an output stay float: half precision has no numbers below 6e-8.
    """
    if not names:
        return set()
    sort_nodes(model)
    slots = find_convertible_nodes(model, names)
    rewriter = Fp16Rewriter(model)
    for node in model.graph.node:
        rewriter.add_node(node, slots.get(node.name, FloatSlots([], [])))
    rewriter.finish_graph()
    return set(slots)


def halve_float_nodes(
    file: Path,
    source: Path,
    ranges: Mapping[str, tuple[float, float]],
    names: Set[str],
    facts: Facts,
) -> Facts:
    """Let nodes that an int8 graph keeps in float compute in half precision.

    ``file`` is written anew; ``source`` is the float graph that it was made of. Returns the facts
    of the graph, in which these nodes are under ``half`` if half precision can hold them.
    """
    import onnx

    model = onnx.load(file)
    overflowing = find_overflowing_nodes(prepare_graph(source), ranges)
    converted = convert_to_fp16(model, names - overflowing.keys())
    onnx.save(clear_metadata(model), file)
    floats = dict(facts["float"])
    half = {name: floats.pop(name) for name in facts["float"] if name in converted}
    for name in names & overflowing.keys():
        floats[name] += f"; half precision cannot hold it: {overflowing[name]}"
    return {**facts, "float": floats, **({"half": half} if half else {})}


def find_convertible_nodes(model: onnx.ModelProto, names: Collection[str]) -> dict[str, FloatSlots]:
    """Return those of the named nodes whose operator has a half form."""
    types = infer_element_types(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    final = {node.output[0] for node in find_final_softmaxes(model)}
    slots = {}
    for node in model.graph.node:
        if node.name in names and node.output[0] not in final:
            found = find_float_slots(node, types, versions)
            if found is not None:
                slots[node.name] = found
    return slots


def find_float_slots(
    node: onnx.NodeProto, types: Mapping[str, int], versions: Mapping[str, int]
) -> FloatSlots | None:
    """Return what changes its type, or None if the operator has no half form.

    It has none either if the type of its result is unknown, or does not follow from its inputs.
    """
    import onnx

    tensors = [name for name in (*node.input, *node.output) if name]
    if list_subgraph_reads(node) or any(name not in types for name in tensors):
        return None
    try:
        schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return None  # an operator of another domain
    half_variables = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if "tensor(float16)" in constraint.allowed_type_strs
    }
    reads = index_float_variables(schema.inputs, node.input, types)
    results = index_float_variables(schema.outputs, node.output, types)
    inputs = {place: variable for place, variable in reads.items() if variable in half_variables}
    if not results or not set(results.values()) <= set(inputs.values()):
        return None
    return FloatSlots(list(inputs), list(results))


def index_float_variables(
    formal: Sequence[Any], names: Iterable[str], types: Mapping[str, int]
) -> dict[int, str]:
    """Return the type variable of every float tensor by its place.

    The last formal parameter may stand for several tensors.
    """
    import onnx

    variables = {}
    for place, name in enumerate(names):
        if name and types[name] == onnx.TensorProto.FLOAT:
            variables[place] = formal[min(place, len(formal) - 1)].type_str
    return variables


class Fp16Rewriter:
    """Writes a graph anew, node after node, each behind those whose results it reads."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.suffix = make_unused_suffix(model, HALF)
        self.constants = index_constants(model)
        self.halves: set[str] = set()
        """Tensors that exist in half precision."""
        self.missing: set[str] = set()
        """Tensors that do not exist in float yet."""
        self.nodes: list[onnx.NodeProto] = []

    def add_node(self, node: onnx.NodeProto, slots: FloatSlots) -> None:
        """Add a node, with the casts that it needs before it."""
        for place, name in enumerate(node.input):
            if place in slots.inputs:
                node.input[place] = self.require_half(name)
            else:
                self.require_float(name)
        for name in list_subgraph_reads(node):
            self.require_float(name)
        for place in slots.outputs:
            name = node.output[place]
            self.halves.add(name)
            self.missing.add(name)
            node.output[place] = self.half_name(name)
        self.nodes.append(node)

    def half_name(self, name: str) -> str:
        return name + self.suffix

    def require_half(self, name: str) -> str:
        """Make a tensor exist in half precision, and return its name there."""
        import onnx

        half = self.half_name(name)
        if name not in self.halves:
            self.halves.add(name)
            if name in self.constants:
                self.graph.initializer.append(round_constant(self.constants[name], half))
            else:
                self.nodes.append(make_cast(name, half, onnx.TensorProto.FLOAT16))
        return half

    def require_float(self, name: str) -> None:
        """Make a tensor exist in float."""
        import onnx

        if name in self.missing:
            self.missing.discard(name)
            self.nodes.append(make_cast(self.half_name(name), name, onnx.TensorProto.FLOAT))

    def finish_graph(self) -> None:
        """Write the outputs in float, and remove weights that only half precision reads now."""
        for output in self.graph.output:
            self.require_float(output.name)
        unused = self.find_unused_constants()
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in unused]
        nodes = [node for node in self.nodes if node.output[0] not in unused]
        replace_field(self.graph, "initializer", kept)
        replace_field(self.graph, "node", nodes)

    def find_unused_constants(self) -> set[str]:
        unused = self.halves & self.constants.keys() - {value.name for value in self.graph.output}
        for node in self.nodes:
            unused.difference_update((*node.input, *list_subgraph_reads(node)))
        return unused


def round_constant(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """Return a constant in half precision. A weight that is too large becomes infinite."""
    import onnx

    with np.errstate(over="ignore"):  # infinity is found later, as in any other tensor
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
    return onnx.numpy_helper.from_array(values, name)


def round_half_results(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put an Identity behind every half result, in place, so that a CPU rounds it.

    ONNX Runtime's CPU provider has few kernels for half precision. It computes the others in float
    between casts of its own, and where two casts meet it drops both, with all optimizations off as
    well: what overflows would be right, and no rounding would be seen.
    """
    import onnx

    types, suffix, nodes = infer_element_types(model), make_unused_suffix(model, "_exact"), []
    for node in model.graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if types.get(name) == onnx.TensorProto.FLOAT16:
                node.output[place] = name + suffix
                nodes.append(onnx.helper.make_node("Identity", [name + suffix], [name]))
    replace_field(model.graph, "node", nodes)
    return model


def replace_field(graph: onnx.GraphProto, field: str, messages: Sequence[Any]) -> None:
    """Replace a repeated field of a graph by messages, some of which it may hold itself."""
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    graph.ClearField(field)
    getattr(graph, field).extend(copies)


def make_cast(source: str, target: str, element_type: int) -> onnx.NodeProto:
    import onnx

    return onnx.helper.make_node("Cast", [source], [target], name=f"Cast_{target}", to=element_type)

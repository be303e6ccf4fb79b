"""Assembly: the graphs `start` and `step` become one graph from a task's inputs to tokens.

A `Loop` (ONNX, operator Loop, version 16) calls the step once for each token and ends when every
sample has its end token or has reached its limit. The graphs are assembled after quantization, so
no pass has to enter a subgraph. The tokens are those of ``generation.generate_greedily``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from attar.models.generation import Decoding
from attar.models.task import Task
from attar.pipeline.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
EMPTY: Mapping[str, str] = MappingProxyType({})
START_PREFIX, STEP_PREFIX, LOOP_PREFIX = "start/", "step/", "loop/"
RESULT = "result"
"""The tensor that becomes the task's output."""


def assemble_graph(start: Path, step: Path, target: Path, task: Task, decoding: Decoding) -> None:
    """Write the graph that generates.

    Raises UnsupportedModelError if the two graphs are not of one network: `step` must read what
    `start` returns, and the token and its place.
    """
    import onnx

    parts = SequenceParts.load(start, step)
    graph = onnx.helper.make_graph(
        list(build_nodes(parts, decoding)),
        "generate",
        [make_input(task, name) for name in task.inputs],
        [make_value(RESULT, "INT64", list(task.outputs[decoding.output].axes))],
        [
            *parts.start.graph.initializer,
            *parts.step.graph.initializer,
            *make_constants(task, decoding),
        ],
    )
    give_public_names(graph, task, decoding)
    opsets = {
        entry.domain: entry.version
        for model in (parts.start, parts.step)
        for entry in model.opset_import
    }
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check="com.microsoft" not in opsets)
    onnx.save(model, target)


@dataclass(frozen=True)
class SequenceParts:
    """Both graphs, with names that cannot meet."""

    start: onnx.ModelProto
    step: onnx.ModelProto
    memory: list[str]
    states: list[str]

    @classmethod
    def load(cls, start: Path, step: Path) -> SequenceParts:
        import onnx

        models = onnx.load(start), onnx.load(step)
        outputs = [value.name for value in models[0].graph.output]
        memory = [name for name in outputs if name.startswith("memory_")]
        states = [name for name in outputs if name.startswith("state_")]
        reads = {value.name for value in models[1].graph.input}
        gives = {value.name for value in models[1].graph.output}
        # An exporter leaves out inputs that the network does not use.
        unknown = reads - {"token", "place", *memory, *states}
        missing = {"logits", *(f"next_{name}" for name in states)} - gives
        if unknown or missing:
            raise UnsupportedModelError(
                f"the step graph reads {sorted(unknown) or 'nothing'} that the start graph does "
                f"not return, and lacks the outputs {sorted(missing) or 'none'}; export both from "
                "one network"
            )
        rename_tensors(models[0].graph, START_PREFIX, set(outputs))
        rename_tensors(models[1].graph, STEP_PREFIX, reads | gives)
        return cls(*models, memory, states)


def rename_tensors(
    graph: onnx.GraphProto, prefix: str, kept: Collection[str], public: Mapping[str, str] = EMPTY
) -> None:
    """Give every node and tensor a prefix, except the kept ones, and the public ones their names.

    The branches and loops of a node read the tensors around them, so theirs are renamed too.
    """

    def rename(name: str) -> str:
        return public.get(name) or (name if not name or name in kept else prefix + name)

    for node in graph.node:
        node.name = node.name and prefix + node.name  # names of nodes may be empty, not equal
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename_tensors(attribute.g, prefix, kept, public)
    for value in [*graph.initializer, *graph.input, *graph.output]:
        value.name = rename(value.name)


def give_public_names(graph: onnx.GraphProto, task: Task, decoding: Decoding) -> None:
    """Give inputs and output the task's names, and all else a prefix: a task may name an input
    ``samples``."""
    public = {START_PREFIX + name: name for name in task.inputs} | {RESULT: decoding.output}
    rename_tensors(graph, LOOP_PREFIX, (), public)


def build_nodes(parts: SequenceParts, decoding: Decoding) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the outer graph: the start, the limits, the loop, the tokens by sample."""
    import onnx

    node = onnx.helper.make_node
    yield from parts.start.graph.node
    yield node("Shape", [parts.start.graph.input[0].name], ["samples"], start=0, end=1)
    yield node("Expand", ["begin", "samples"], ["token_0"])
    yield node("Expand", ["false", "samples"], ["done_0"])
    yield from build_limits(decoding)
    carried = ["token_0", "place_0", "done_0", *parts.states]
    results = [f"last_{name}" for name in ("token", "place", "done", *parts.states)]
    body = build_body(parts)
    yield node("Loop", ["longest", "true", *carried], [*results, "tokens_by_step"], body=body)
    yield node("Transpose", ["tokens_by_step"], ["tokens_by_sample"], perm=[1, 0])
    yield node("Shape", ["tokens_by_sample"], ["steps"], start=1, end=2)
    yield node("Sub", ["longest", "steps"], ["missing"])
    yield node("Concat", ["three_zeros", "missing"], ["padding"], axis=0)
    yield node("Pad", ["tokens_by_sample", "padding", "pad"], [RESULT])


def build_limits(decoding: Decoding) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute ``Decoding.limit_lengths``."""
    import onnx

    node = onnx.helper.make_node
    if decoding.source is None:
        yield node("Expand", ["longest", "samples"], ["limits"])
        return
    yield node("Equal", [START_PREFIX + decoding.source, "source_pad"], ["is_pad"])
    yield node("Not", ["is_pad"], ["is_source"])
    yield node("Cast", ["is_source"], ["source_ones"], to=onnx.TensorProto.INT64)
    yield node("ReduceSum", ["source_ones", "axis_1"], ["source_length"], keepdims=0)
    yield node("Mul", ["source_length", "slope"], ["scaled_length"])
    yield node("Add", ["scaled_length", "offset"], ["raw_limits"])
    yield node("Clip", ["raw_limits", "one", "longest"], ["limits"])


def build_body(parts: SequenceParts) -> onnx.GraphProto:
    """Return one iteration: a step, the most likely token, and whether any sample goes on."""
    import onnx

    node, integer = onnx.helper.make_node, onnx.TensorProto.INT32
    samples = [
        node("ArgMax", ["logits"], ["likely"], axis=1, keepdims=0),
        node("Where", ["done", "pad", "likely"], ["next_token"]),
        node("Equal", ["next_token", "end"], ["has_ended"]),
        node("Add", ["place", "one"], ["next_place"]),
        node("GreaterOrEqual", ["next_place", "limits"], ["is_at_limit"]),
        node("Or", ["done", "has_ended"], ["done_by_token"]),
        node("Or", ["done_by_token", "is_at_limit"], ["next_done"]),
        node("Cast", ["next_done"], ["done_integer"], to=integer),
        node("ReduceMin", ["done_integer"], ["all_integer"], keepdims=0),
        node("Cast", ["all_integer"], ["all_done"], to=onnx.TensorProto.BOOL),
        node("Not", ["all_done"], ["goes_on"]),
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
    return onnx.helper.make_graph([*parts.step.graph.node, *samples], "step", inputs, outputs)


def make_constants(task: Task, decoding: Decoding) -> list[onnx.TensorProto]:
    import onnx

    words, (slope, offset) = decoding.vocabulary, decoding.growth
    source_dtype = task.inputs[decoding.source].dtype if decoding.source else "int64"
    values = {
        "begin": np.int64(words.begin),
        "end": np.int64(words.end),
        "pad": np.int64(words.pad),
        "one": np.int64(1),
        "place_0": np.zeros(1, np.int64),
        "longest": np.int64(decoding.longest),
        "true": np.bool_(True),
        "false": np.zeros(1, np.bool_),
        "source_pad": np.array(decoding.source_pad, source_dtype),
        "axis_1": np.ones(1, np.int64),
        "three_zeros": np.zeros(3, np.int64),
        "slope": np.int64(slope),
        "offset": np.int64(offset),
    }
    return [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]


def make_input(task: Task, name: str) -> onnx.ValueInfoProto:
    import onnx

    tensor = task.inputs[name]
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return onnx.helper.make_tensor_value_info(START_PREFIX + name, dtype, list(tensor.axes))


def make_value(name: str, dtype: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(dtype), shape)

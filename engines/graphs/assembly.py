"""Assembly: the graphs `start` and `step` become one graph from a task's inputs to tokens.

A `Loop` (ONNX, operator Loop, version 16) calls the step once for each token and ends when few
enough samples go on; a sample ends with its end token or at its limit. A second `Loop` around it
leaves the samples out that have ended, until none goes on. The graphs are assembled after
quantization, so no pass has to enter a subgraph. The tokens are those of
``generation.generate_greedily``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from attar.models.generation import CROWDED, Decoding
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

    @property
    def tensors(self) -> list[str]:
        return [*self.memory, *self.states]

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
        rename_tensors(models[0].graph, START_PREFIX, ())
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
    """Yield the nodes of the outer graph: start, limits, loops, and the tokens by sample."""
    import onnx

    node = onnx.helper.make_node
    yield from parts.start.graph.node
    yield node("Shape", [parts.start.graph.input[0].name], ["samples"], start=0, end=1)
    yield node("Expand", ["begin", "samples"], ["token_0"])
    yield node("Squeeze", ["samples"], ["sample_count"])
    yield node("Range", ["zero", "sample_count", "one"], ["rows_0"])
    yield node("Concat", ["one_zero", "samples"], ["path_shape"], axis=0)
    yield node("Expand", ["pad", "path_shape"], ["path_0"])
    yield from build_limits(decoding)
    held = ["token_0", "rows_0", "limits_0", *(START_PREFIX + name for name in parts.tensors)]
    results = [f"final_{name}" for name in ("token", "rows", "limits", *parts.tensors)]
    yield node(
        "Loop",
        ["longest", "true", "place_0", "path_0", *held],
        ["final_place", "tokens_by_step", *results],
        body=build_phase(parts),
    )
    yield node("Transpose", ["tokens_by_step"], ["tokens_by_sample"], perm=[1, 0])
    yield node("Shape", ["tokens_by_sample"], ["steps"], start=1, end=2)
    yield node("Sub", ["longest", "steps"], ["missing"])
    yield node("Concat", ["three_zeros", "missing"], ["padding"], axis=0)
    yield node("Pad", ["tokens_by_sample", "padding", "pad"], [RESULT])


def build_phase(parts: SequenceParts) -> onnx.GraphProto:
    """Return the steps with the same samples, after which those that have ended are left out."""
    import onnx

    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    carried = ["held_token", "held_place", "done_0", *(f"held_{name}" for name in parts.states)]
    results = [f"last_{name}" for name in ("token", "place", "done", *parts.states)]
    # What is selected: the token and the state that the steps left, and all else as it was held.
    selected = {"held_token": "last_token", "rows": "rows", "limits": "limits"}
    selected |= {name: name for name in parts.memory}
    selected |= {f"held_{name}": f"last_{name}" for name in parts.states}
    nodes = [
        node("Shape", ["rows"], ["size"]),
        node("Mul", ["size", "crowded_part"], ["few_by_whole"]),
        node("Expand", ["false", "size"], ["done_0"]),
        node("Loop", ["longest", "true", *carried], [*results, "tokens"], body=build_body(parts)),
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


def build_limits(decoding: Decoding) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute ``Decoding.limit_lengths``."""
    import onnx

    node = onnx.helper.make_node
    if decoding.source is None:
        yield node("Expand", ["longest", "samples"], ["limits_0"])
        return
    yield node("Equal", [START_PREFIX + decoding.source, "source_pad"], ["is_pad"])
    yield node("Not", ["is_pad"], ["is_source"])
    yield node("Cast", ["is_source"], ["source_ones"], to=onnx.TensorProto.INT64)
    yield node("ReduceSum", ["source_ones", "axis_1"], ["source_length"], keepdims=0)
    yield node("Mul", ["source_length", "slope"], ["scaled_length"])
    yield node("Add", ["scaled_length", "offset"], ["raw_limits"])
    yield node("Clip", ["raw_limits", "one", "longest"], ["limits_0"])


def build_body(parts: SequenceParts) -> onnx.GraphProto:
    """Return one iteration: a step, the most likely token, and whether enough samples go on."""
    import onnx

    node, integer = onnx.helper.make_node, onnx.TensorProto.INT64
    samples = [
        node("ArgMax", ["logits"], ["likely"], axis=1, keepdims=0),
        node("Where", ["done", "pad", "likely"], ["next_token"]),
        node("Equal", ["next_token", "end"], ["has_ended"]),
        node("Add", ["place", "one"], ["next_place"]),
        node("GreaterOrEqual", ["next_place", "limits"], ["is_at_limit"]),
        node("Or", ["done", "has_ended"], ["done_by_token"]),
        node("Or", ["done_by_token", "is_at_limit"], ["next_done"]),
        node("Not", ["next_done"], ["is_alive"]),
        node("Cast", ["is_alive"], ["alive_integer"], to=integer),
        node("ReduceSum", ["alive_integer"], ["alive"], keepdims=0),
        node("Mul", ["alive", "crowded_whole"], ["alive_by_whole"]),
        node("Squeeze", ["few_by_whole"], ["fewest"]),
        node("Greater", ["alive_by_whole", "fewest"], ["goes_on"]),
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
    # In the graph that reads them: as weights of a graph further out, MatMulNBits is slower and
    # rounds otherwise than in the step alone.
    weights = list(parts.step.graph.initializer)
    nodes = [*parts.step.graph.node, *samples]
    return onnx.helper.make_graph(nodes, "step", inputs, outputs, weights)


def make_constants(task: Task, decoding: Decoding) -> list[onnx.TensorProto]:
    import onnx

    words, (slope, offset) = decoding.vocabulary, decoding.growth
    source_dtype = task.inputs[decoding.source].dtype if decoding.source else "int64"
    values = {
        "begin": np.int64(words.begin),
        "end": np.int64(words.end),
        "pad": np.int64(words.pad),
        "zero": np.int64(0),
        "one": np.int64(1),
        "crowded_part": np.int64(CROWDED[0]),
        "crowded_whole": np.int64(CROWDED[1]),
        "one_zero": np.zeros(1, np.int64),
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

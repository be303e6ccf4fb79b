"""Assembly: the graphs `start` and `step` become one graph from a task's inputs to tokens.

A `Loop` (ONNX, operator Loop, version 16) calls the step once for each token and ends when few
enough samples go on; a sample ends with its end token or at its limit. A second `Loop` around it
leaves the samples out that have ended, until none goes on. The graphs are assembled after
quantization, so no pass has to enter a subgraph. The tokens are those of
``generation.generate_greedily``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.loop_bodies import build_phase
from attar.engines.graphs.sequence_parts import (
    START_PREFIX,
    SequenceParts,
    make_value,
    rename_tensors,
)
from attar.models.generation import KEEP_ABOVE, Decoding
from attar.models.task import Task

if TYPE_CHECKING:
    import onnx

IR_VERSION = 10
LOOP_PREFIX = "loop/"
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
        body=build_phase(parts, decoding.vocabulary.size),
    )
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
        yield node("Expand", ["longest", "samples"], ["limits_0"])
        return
    yield node("Equal", [START_PREFIX + decoding.source, "source_pad"], ["is_pad"])
    yield node("Not", ["is_pad"], ["is_source"])
    yield node("Cast", ["is_source"], ["source_ones"], to=onnx.TensorProto.INT64)
    yield node("ReduceSum", ["source_ones", "axis_1"], ["source_length"], keepdims=0)
    yield node("Mul", ["source_length", "slope"], ["scaled_length"])
    yield node("Add", ["scaled_length", "offset"], ["raw_limits"])
    yield node("Clip", ["raw_limits", "one", "longest"], ["limits_0"])


def make_constants(task: Task, decoding: Decoding) -> list[onnx.TensorProto]:
    import onnx

    words, (slope, offset), (part, whole) = decoding.vocabulary, decoding.growth, KEEP_ABOVE
    source_dtype = task.inputs[decoding.source].dtype if decoding.source else "int64"
    values = {
        "begin": np.int64(words.begin),
        "end": np.int64(words.end),
        "pad": np.int64(words.pad),
        "zero": np.int64(0),
        "one": np.int64(1),
        "leaving_part": np.int64(whole - part),
        "rounding_up": np.int64(whole - 1),
        "share_whole": np.int64(whole),
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

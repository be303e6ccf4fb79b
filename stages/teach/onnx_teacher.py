"""Adopt an ONNX file as the teacher. Only its inputs and outputs are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.inspection import count_parameters
from attar.engines.graphs.softmax import find_maker
from attar.engines.parity import list_proven_sizes
from attar.engines.runtimes import onnxruntime, providers
from attar.models.checks import task as task_check
from attar.models.generation import find_decoding
from attar.models.probabilities import KindCheck
from attar.models.task import Predict, Task, load_task
from attar.models.tensors import describe_array, format_axes, has_fixed_sizes
from attar.pipeline import team
from attar.pipeline.core.errors import StageError, suggest_name
from attar.pipeline.core.stage import Device, Facts
from attar.stages.learning.validation import Validation

if TYPE_CHECKING:
    import onnx

QUANTIZED_OP_TYPES = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
}
PRECISIONS_BY_DTYPE = {"float32": "fp32", "float16": "fp16", "float64": "fp64", "bfloat16": "bf16"}


def adopt_graph(task_name: str, file: Path, out: Path, device: Device = "cpu") -> Facts:
    """Check the file against the task, evaluate it on validation, and save it as ``model.onnx``.

    External data is saved with it. Raises StageError if the file is not valid ONNX, if its inputs
    and outputs are not the task's, if an output is not finite or has another shape at one of the
    promised sizes, and for a task that generates.
    """
    task = load_task(task_name)
    task_check.check_task_once(task)
    refuse_tokens(task, file)
    model = load_graph(file)
    check_interface(task, model, file)
    if team.get_team().leads:
        save_graph(model, file, out)
    place = providers.select_device(device)
    provider = providers.DEVICE_PROVIDERS[place]
    precision = detect_precision(model)
    with onnxruntime.open_session(
        {"model": file}, None, provider, precision=precision, splits=True
    ) as predictor:
        check_outputs(task, predictor, model, file)
        scores = Validation(task).evaluate(predictor.graphs, "teacher", place)
    return {
        "task": task_name,
        "graphs": ["model"],
        "precision": precision,
        "opset": read_opset(model),
        "inputs": {name: list(tensor.axes) for name, tensor in task.inputs.items()},
        "outputs": {name: list(output.axes) for name, output in task.outputs.items()},
        "parameters": count_parameters(model),
        "device": place,
        "score": scores["score"],
        "history": [],
        "best_epoch": 0,
    }


def refuse_tokens(task: Task, file: Path) -> None:
    """Raises StageError for a task that generates: a graph has no probabilities of next tokens."""
    if decoding := find_decoding(task):
        raise StageError(
            f"{file} cannot teach {type(task).__name__}, whose output {decoding.output!r} holds "
            "tokens: a student learns the probabilities of each next token, which no graph of "
            "whole sequences has; name a network = ... with start and step in [teacher]"
        )


def load_graph(file: Path) -> onnx.ModelProto:
    """Return the graph without its external data, which the checker has found.

    Raises StageError if it is not valid ONNX, or has external data that no key covers.
    """
    import onnx

    try:
        onnx.checker.check_model(file, full_check=True)
        model = onnx.load(file, load_external_data=False)
    except Exception as error:
        message = " ".join(str(error).split())
        raise StageError(
            f"{file} is not valid ONNX ({message}); export it again, with its external data in its "
            "folder"
        ) from error
    locations = set(list_external_files(model))
    unknown = sorted(
        place for place in locations if "/" in place or not place.startswith(file.name)
    )
    if unknown:
        raise StageError(
            f"{file} has weights in {', '.join(unknown)}, whose bytes would not count in the key; "
            "save it again with onnx.save(..., save_as_external_data=True, "
            f"location='{file.name}.data'), all tensors to one file"
        )
    return model


def list_external_files(model: onnx.ModelProto) -> Iterable[str]:
    """Yield the names of the external files of all tensors, those of subgraphs included."""
    import onnx

    for tensor in iterate_tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield next(entry.value for entry in tensor.external_data if entry.key == "location")


def iterate_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield all tensors of a graph: weights, constants, and those of subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            subgraphs = [attribute.g] if attribute.HasField("g") else []
            for subgraph in [*subgraphs, *attribute.graphs]:
                yield from iterate_tensors(subgraph)


def save_graph(model: onnx.ModelProto, file: Path, out: Path) -> None:
    """Write the graph, and its external data to one file, ``model.onnx.data``."""
    import onnx

    if not any(list_external_files(model)):
        onnx.save(model, out / "model.onnx")
        return
    onnx.save(
        onnx.load(file),
        out / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )


def check_interface(task: Task, model: onnx.ModelProto, file: Path) -> None:
    """Raises StageError unless the graph has the task's inputs (names, dtypes, axes) and outputs.

    It may have further outputs.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    outputs = {value.name: value for value in model.graph.output}
    check_names(f"{file} reads", list(inputs), list(task.inputs), exactly=True)
    check_names(f"{file} answers", list(outputs), list(task.outputs), exactly=False)
    for name, tensor in task.inputs.items():
        if (dtype := read_dtype(inputs[name])) != np.dtype(tensor.dtype).name:
            raise StageError(
                f"{file} reads {name!r} as {dtype}, {type(task).__name__} gives it as "
                f"{tensor.dtype}"
            )
        check_axes(task, file, inputs[name], tensor.axes)
    for name, output in task.outputs.items():
        check_axes(task, file, outputs[name], output.axes)


def check_names(what: str, got: list[str], wanted: list[str], *, exactly: bool) -> None:
    """Raises StageError if a wanted name is missing or, with ``exactly``, if there is another."""
    missing = [name for name in wanted if name not in got]
    unknown = [name for name in got if name not in wanted] if exactly else []
    if missing or unknown:
        hint = suggest_name(missing[0], got) if missing else f"it wants {', '.join(unknown)} too"
        raise StageError(
            f"{what} {', '.join(got)}, the task names {', '.join(wanted)}; {hint}. Give the task "
            "the graph's names: with [teacher] task = ... it can have a task of its own"
        )


def read_dtype(value: onnx.ValueInfoProto) -> str:
    """Return the numpy name of an input's dtype."""
    import onnx

    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return str(np.dtype(dtype).name)


def check_axes(
    task: Task, file: Path, value: onnx.ValueInfoProto, axes: tuple[int | str, ...]
) -> None:
    """Raises StageError unless the axes are the task's, or dynamic where the task's are fixed.

    A value without a shape passes: `check_outputs` looks at the shape of what the graph answers.
    """
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = value.type.tensor_type.shape.dim
    got = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    if not has_fixed_sizes(got, axes):
        raise StageError(
            f"{file} has {value.name!r} with the axes {got}, {type(task).__name__} says "
            f"{list(axes)}; an axis that the task names must be dynamic in the graph: export it "
            "so, or give the teacher a task of its own"
        )


def check_outputs(task: Task, predict: Predict, model: onnx.ModelProto, file: Path) -> None:
    """Raises StageError if an output has another shape or kind than declared, or is not finite."""
    who = f"the answers of {file} for"
    checks = {name: KindCheck(who, name, output.kind) for name, output in task.outputs.items()}
    for number, sizes in enumerate(list_proven_sizes(task)):
        answers = predict(task.example(np.random.default_rng((0, number)), **sizes))
        for name, output in task.outputs.items():
            axes = [sizes.get(str(axis), axis) for axis in output.axes]
            got = answers[name]
            is_finite = np.isfinite(got.astype(np.float64)).all()
            if not is_finite or not has_fixed_sizes(axes, got.shape):
                at = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
                raise StageError(
                    f"at {at}: {file} answers {name!r} as {describe_array(got)}, the task says "
                    f"{format_axes(axes)}, all of it finite"
                )
            checks[name].add(got)
    for name, check in checks.items():
        check.finish()
        if check.kind == "logits" and find_maker(model, name) == "Softmax":
            check.refuse_softmax("only rounding and changes of shape come after its softmax")
        if check.kind == "multilabel" and find_maker(model, name) == "Sigmoid":
            check.refuse_sigmoid("only rounding and changes of shape come after its sigmoid")


def read_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators; 0 if the graph imports none."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    return 0


def detect_precision(model: onnx.ModelProto) -> str:
    """Return int8 if a node is quantized, else the precision of most weights."""
    import onnx

    if QUANTIZED_OP_TYPES & {node.op_type for node in model.graph.node}:
        return "int8"
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        if dtype in PRECISIONS_BY_DTYPE:
            counts[PRECISIONS_BY_DTYPE[dtype]] += int(np.prod(tensor.dims))
    return max(counts, key=lambda name: counts[name], default="fp32")

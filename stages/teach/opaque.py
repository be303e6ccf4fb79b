"""Opaque: a teacher that is an ONNX file from elsewhere, of which only inputs and outputs are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.engines.graphs.inspection import count_parameters
from attar.engines.parity import list_proven_sizes
from attar.engines.runtimes import onnxruntime
from attar.models.checks import task as task_check
from attar.models.probabilities import check_kind
from attar.models.task import Predict, Task, load_task
from attar.pipeline import team
from attar.pipeline.core.errors import StageError, suggest_name
from attar.pipeline.core.stage import Facts
from attar.stages.learning.validation import Validation

if TYPE_CHECKING:
    import onnx

QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger"}
NAMES = {"float32": "fp32", "float16": "fp16", "float64": "fp64", "bfloat16": "bf16"}


def adopt(task_name: str, file: Path, out: Path) -> Facts:
    """Check the file against the task, measure it on validation, and keep it as ``model.onnx`` with any external data.

    Raises StageError for what is no valid ONNX, for inputs and outputs that are not the task's, and for answers that are not
    finite or have another shape at some promised size.
    """
    task = load_task(task_name)
    task_check.check(task)
    model = loaded(file)
    check_interface(task, model, file)
    if team.current().leads:
        keep(model, file, out)
    with onnxruntime.open_session({"model": file}, None) as predictor:
        check_answers(task, predictor, file)
        measured = Validation(task).of(predictor, "teacher")
    return {
        "task": task_name,
        "graphs": ["model"],
        "precision": precision(model),
        "opset": next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        "inputs": {name: list(tensor.axes) for name, tensor in task.inputs.items()},
        "outputs": {name: list(output.axes) for name, output in task.outputs.items()},
        "parameters": count_parameters(model),
        "device": "cpu",
        "score": measured["score"],
        "history": [],
        "best_epoch": 0,
    }


def loaded(file: Path) -> onnx.ModelProto:
    """Without its external data, which the checker has seen to be there."""
    import onnx

    try:
        onnx.checker.check_model(file, full_check=True)
        model = onnx.load(file, load_external_data=False)
    except Exception as error:
        said = " ".join(str(error).split())
        raise StageError(f"{file} is not valid ONNX ({said}); export it again, its external data beside it") from error
    strange = sorted({place for place in external(model) if "/" in place or not place.startswith(file.name)})
    if strange:
        raise StageError(
            f"{file} has weights in {', '.join(strange)}, whose bytes would not count in the key; save it again with "
            f"onnx.save(..., save_as_external_data=True, location='{file.name}.data'), all tensors to one file"
        )
    return model


def external(model: onnx.ModelProto) -> Iterable[str]:
    """The files that its tensors lie in, as the graph names them: weights, constants, and those of graphs inside nodes."""
    import onnx

    for tensor in tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield next(entry.value for entry in tensor.external_data if entry.key == "location")


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All that a graph holds, inside its nodes too."""
    yield from graph.initializer
    for attribute in (each for node in graph.node for each in node.attribute):
        yield from [attribute.t, *attribute.tensors] if attribute.HasField("t") else attribute.tensors
        for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            yield from tensors(inner)


def keep(model: onnx.ModelProto, file: Path, out: Path) -> None:
    """The graph, and what it has outside in one file, ``model.onnx.data``."""
    import onnx

    inside = not any(external(model))
    whole = model if inside else onnx.load(file)
    where: dict[str, Any] = {} if inside else {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    if not inside:
        where["convert_attribute"] = True
    onnx.save(whole, out / "model.onnx", **where)


def check_interface(task: Task, model: onnx.ModelProto, file: Path) -> None:
    """Names, dtypes and axes of the inputs, names and axes of the outputs; it may have outputs that the task does not name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    outputs = {value.name: value for value in model.graph.output}
    check_names(f"{file} reads", list(inputs), list(task.inputs), exactly=True)
    check_names(f"{file} answers", list(outputs), list(task.outputs), exactly=False)
    for name, tensor in task.inputs.items():
        if (dtype := dtype_of(inputs[name])) != np.dtype(tensor.dtype).name:
            raise StageError(f"{file} reads {name!r} as {dtype}, {type(task).__name__} gives it as {tensor.dtype}")
        check_axes(task, file, inputs[name], tensor.axes)
    for name, output in task.outputs.items():
        check_axes(task, file, outputs[name], output.axes)


def check_names(what: str, got: list[str], wanted: list[str], *, exactly: bool) -> None:
    missing = [name for name in wanted if name not in got]
    unknown = [name for name in got if name not in wanted] if exactly else []
    if missing or unknown:
        hint = suggest_name(missing[0], got) if missing else f"it wants {', '.join(unknown)} too"
        raise StageError(
            f"{what} {', '.join(got)}, the task names {', '.join(wanted)}; {hint}. Give the task the graph's names: with "
            "[teacher] task = ... it can have a task of its own"
        )


def dtype_of(value: onnx.ValueInfoProto) -> str:
    import onnx

    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name)


def check_axes(task: Task, file: Path, value: onnx.ValueInfoProto, axes: tuple[int | str, ...]) -> None:
    """A graph may promise more than the task, not less. An output whose shape the graph does not tell is found out by asking."""
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = value.type.tensor_type.shape.dim
    got: list[int | str] = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    fits = len(got) == len(axes) and all(isinstance(size, str) or size == axis for size, axis in zip(got, axes, strict=True))
    if not fits:
        raise StageError(
            f"{file} has {value.name!r} with the axes {got}, {type(task).__name__} says {list(axes)}; an axis that the task "
            "names must be dynamic in the graph: export it so, or give the teacher a task of its own"
        )


def check_answers(task: Task, predict: Predict, file: Path) -> None:
    for number, sizes in enumerate(list_proven_sizes(task)):
        answers = predict(task.example(np.random.default_rng((0, number)), **sizes))
        for name, output in task.outputs.items():
            wanted = [sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in output.axes]
            got = answers[name]
            fits = got.ndim == len(wanted) and all(isinstance(w, str) or w == n for w, n in zip(wanted, got.shape, strict=True))
            if not fits or not np.isfinite(np.asarray(got, np.float64)).all():
                at = ", ".join(f"{axis} {size}" for axis, size in sizes.items())
                raise StageError(
                    f"at {at}: {file} answers {name!r} as {got.dtype} {list(got.shape)}, the task says {wanted}, all of it finite"
                )
            check_kind(f"the answers of {file} for", name, output.kind, got)


def precision(model: onnx.ModelProto) -> str:
    """int8 where something is quantized, else what most of the weights are stored in."""
    import onnx

    if QUANTIZED & {node.op_type for node in model.graph.node}:
        return "int8"
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name
        if dtype in NAMES:
            counts[NAMES[dtype]] += int(np.prod(tensor.dims))
    return max(counts, key=lambda name: counts[name], default="fp32")

"""Tools to spoil the student's graph: fp32, int8, or as an engine runs it. ``image`` (N, 1, 8, 8) in, ``logits`` (N, 10) out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from attar.engines.runtimes import onnxruntime
from attar.models import views
from attar.models.task import load_task
from attar.pipeline.core import names

TASK = "task.py:Camera"
Numbers = npt.NDArray[np.float32]


def spoil(file: Path, fault: str) -> None:
    """Apply a fault, by its full name, to a graph."""
    model = onnx.load(file)
    names.load_object(fault)(model)
    onnx.save(model, file)


def after(model: onnx.ModelProto, tensor: str, text: str, **constants: Any) -> None:
    """Whoever read ``tensor``, the caller of the graph included, now reads the ``y`` that ``text`` computes from ``x``.

    ``text`` is nodes in ONNX's own notation, which may read ``image`` and the constants too.
    """
    nodes = list(model.graph.node)
    made = [number for number, node in enumerate(nodes) if tensor in node.output]
    x, y = (f"{tensor}.honest", tensor) if made else (tensor, f"{tensor}.spoilt")
    for node in nodes:
        rename(node.output if made else node.input, {tensor: x if made else y})
    known = {"x": x, "y": y, "image": "image", **{name: constant(model, value) for name, value in constants.items()}}
    added = onnx.parser.parse_graph(f"spoilt () => () {{ {text} }}").node
    known = {name: f"spoilt.{name}" for node in added for name in node.output} | known
    for node in added:
        rename(node.input, known)
        rename(node.output, known)
    place = made[0] + 1 if made else 0
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes[:place], *added, *nodes[place:]])


def rename(listed: Any, to: Mapping[str, str]) -> None:
    listed[:] = [to.get(name, name) for name in listed]


def constant(model: onnx.ModelProto, value: Any) -> str:
    """A new initializer: bool, int64 or float32."""
    array = np.asarray(value)
    array = array.astype({"b": np.bool_, "i": np.int64, "f": np.float32}[array.dtype.kind])
    name = f"spoilt.{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def initializers(model: onnx.ModelProto, axes: int, named: str = "") -> list[onnx.TensorProto]:
    """The weights with so many axes, in the order of the layers."""
    found = [tensor for tensor in model.graph.initializer if len(tensor.dims) == axes and named in tensor.name]
    return sorted(found, key=lambda tensor: tensor.name)


def rewrite(tensor: onnx.TensorProto, value: npt.NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))


def read_by_head(model: onnx.ModelProto) -> str:
    """The tensor that the last layer reads: (N, 64), float."""
    return str(next(node.input[0] for node in model.graph.node if node.op_type == "Gemm"))


def seen_images() -> Numbers:
    """The test split as a network sees it: (832, 1, 8, 8)."""
    task = load_task(TASK)
    return np.concatenate(
        [np.asarray(seen.inputs["image"], np.float32) for seen in views.iterate_clean(task, task.split("test"))]
    )


def answers(model: onnx.ModelProto, images: Numbers, tensor: str = "logits") -> Numbers:
    """The logits, or an inner tensor, as the graph is written."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    if tensor != "logits":
        shown.graph.output.append(onnx.ValueInfoProto(name=tensor))
    with onnxruntime.open_session({"model": shown.SerializeToString()}, 1, optimize=False) as predict:
        return np.asarray(predict({"image": images})[tensor], np.float32)


CLEARLY = 2**-8
"""By such a share two numbers must differ for half precision to tell one from the middle between them."""


def exceeded_by(values: Numbers, count: int) -> float:
    """The number that so many of these exceed, in the middle between two of them; more than so many where some are equal."""
    ordered = np.sort(values.ravel())[::-1]
    apart = np.flatnonzero(-np.diff(ordered[count - 1 :]) > CLEARLY * np.abs(ordered[count:]))
    last = count - 1 + int(apart[0])
    return float((ordered[last] + ordered[last + 1]) / 2)

"""Graphs that answer every tensor they compute, for calibration and comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def reveal_tensors(file: Path) -> bytes:
    """Return a graph, serialized, that answers the result of every node as well.

    Sequences, maps and optionals are left out.
    """
    import onnx

    return expose_results(onnx.load(file))


def expose_results(model: onnx.ModelProto) -> bytes:
    """Add the result of every node to the outputs, in place, and return the graph serialized."""
    import onnx

    known = {output.name for output in model.graph.output} | find_non_tensors(model)
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                # the runtime infers the type
                model.graph.output.append(onnx.ValueInfoProto(name=name))
    serialized: bytes = model.SerializeToString()
    return serialized


def find_non_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of values that are known to be a sequence, a map or an optional."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {
        value.name
        for value in inferred
        if value.type.WhichOneof("value") not in (None, "tensor_type")
    }

"""Conversion of a network that generates: `start` and `step` one by one, then the graph of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attar.engines.graphs.assembly import assemble_graph
from attar.models.generation import MODEL, START, STEP, Decoding
from attar.models.task import Task
from attar.pipeline.core.errors import UnsupportedModelError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import OnnxModel

SEQUENCE_PRECISIONS = ("fp32", "int8-weights", "int8-dynamic")
"""The precisions that need no calibration."""


def write_sequence_graphs(
    out: Path,
    onnx: OnnxModel,
    task: Task,
    decoding: Decoding,
    precision: str,
    write_graph: Callable[[Path, Path], Facts],
) -> Facts:
    """Convert both graphs and assemble them. Return what is rounded and what is not, of both.

    Raises UnsupportedModelError for a precision that needs the ranges of the step's tensors.
    """
    if precision not in SEQUENCE_PRECISIONS:
        raise UnsupportedModelError(explain_precision(precision))
    files = {graph: out / f"{graph}.onnx" for graph in (START, STEP)}
    parts = {graph: write_graph(onnx.file(graph), file) for graph, file in files.items()}
    assemble_graph(files[START], files[STEP], out / f"{MODEL}.onnx", task, decoding)
    quantized: Counter[str] = Counter()
    floats: dict[str, str] = {}
    for graph, facts in parts.items():
        quantized.update(facts.get("quantized", {}))
        floats |= {f"{graph}/{name}": why for name, why in facts.get("float", {}).items()}
    return {"quantized": dict(quantized), "float": floats} if quantized else {}


def explain_precision(precision: str) -> str:
    """Return why a network that generates cannot have a precision, and which ones it can."""
    return (
        f"a network that generates cannot be converted to {precision!r}: its step would have "
        f"to be calibrated; use {', '.join(SEQUENCE_PRECISIONS)}"
    )

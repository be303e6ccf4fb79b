"""A graph in half precision, with islands of float where half overflows.

Islands are found by running the graph, which shows the results of nodes. ONNX Runtime's CPU kernels
add up in float inside a node; what a GPU loses there shows when its engine is measured.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.exposure import expose_results
from attar.engines.graphs.half_precision import HALF, convert_to_fp16, round_half_results
from attar.engines.graphs.inspection import make_unused_suffix
from attar.engines.graphs.int8 import EXCLUDED
from attar.engines.graphs.overflow import find_overflowing_nodes
from attar.engines.graphs.placement import MULTIPLYING
from attar.engines.graphs.preparation import clear_metadata, prepare_graph
from attar.engines.graphs.selection import check_node_names
from attar.models.task import Array, Arrays, Task
from attar.models.views import iterate_spread
from attar.pipeline.core.errors import UnsupportedModelError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Facts

if TYPE_CHECKING:
    import onnx

SAMPLES = 256  # of validation
BATCH = 32  # samples whose tensors are in memory at once
ROUNDS = 16
HUGE = 0.1
"""The share of a tensor's norm by which rounding alone never moves it."""


def write_fp16_graph(
    source: Path,
    target: Path,
    ranges: Mapping[str, tuple[float, float]],
    task: Task,
    exclude: Collection[str],
    allowed: float = HUGE,
) -> Facts:
    """Write the graph. Return which nodes are half, which stay float and why, and the rounds.

    Nodes whose tensors are out of half precision's range on training data are float from the start.
    Then the graph runs on validation beside the float one, and every result is compared. A result
    is wrong if it is not finite, or ``allowed`` of its norm away, though all that it is made of is
    right: the nodes that make and read it become float. That repeats until nothing is wrong.

    Raises UnsupportedModelError, which names a node, if that does not end, or leaves nothing worth
    it in half precision; StageError if an excluded node does not exist.
    """
    import onnx

    model = prepare_graph(source)
    check_node_names(model, exclude)
    islands = find_overflowing_nodes(model, ranges) | dict.fromkeys(exclude, EXCLUDED)
    for number in range(1, ROUNDS + 1):
        made = onnx.ModelProto.FromString(model.SerializeToString())
        inside = convert_to_fp16(made, {node.name for node in model.graph.node} - islands.keys())
        check_half_nodes(model, inside, islands)
        wrong = find_faults(model, made, task, allowed)
        if not wrong:
            onnx.save(clear_metadata(made), target)
            return summarize_graph(model, inside, islands, number)
        fresh = find_nearest_half_nodes(model, inside, wrong)
        if not fresh:
            break
        islands |= fresh
        report_progress("islands", number, ROUNDS, f"{len(islands)} nodes in float")
    raise UnsupportedModelError(
        f"precision 'fp16': after {number} rounds, {format_first_fault(model, wrong)}; "
        "use 'fp32', or 'bf16' where a runtime has it"
    )


def summarize_graph(
    model: onnx.ModelProto, inside: Collection[str], islands: Mapping[str, str], rounds: int
) -> Facts:
    counted = Counter(node.op_type for node in model.graph.node if node.name in inside)
    floats = {node.name: islands[node.name] for node in model.graph.node if node.name in islands}
    return {"half": dict(sorted(counted.items())), "float": floats, "rounds": rounds}


def check_half_nodes(
    model: onnx.ModelProto, inside: Collection[str], islands: Mapping[str, str]
) -> None:
    """Raises UnsupportedModelError if no multiplying node is left in half precision."""
    nodes = list(model.graph.node)
    worth = [node for node in nodes if node.op_type in MULTIPLYING] or nodes
    if not any(node.name in inside for node in worth):
        lost = [
            f"{node.op_type} {node.name!r} ({islands[node.name]})"
            for node in worth
            if node.name in islands
        ]
        why = f": {lost[0]} must stay float" if lost else ""
        raise UnsupportedModelError(
            f"precision 'fp16': nothing is left to compute in half precision{why}; use precision = "
            "'fp32'"
        )


@dataclass
class DifferenceTally:
    """The difference between a tensor in half precision and in float, over all samples."""

    infinite: bool = False
    apart: float = 0.0
    norm: float = 0.0

    def add(self, exact: Array, got: Array) -> None:
        a, b = np.asarray(exact, np.float64), np.asarray(got, np.float64)
        sound = np.isfinite(a)
        self.infinite |= not np.isfinite(b[sound]).all()
        sound &= np.isfinite(b)
        self.apart += float(np.square(a - b, where=sound, out=np.zeros_like(a)).sum())
        self.norm += float(np.square(a, where=sound, out=np.zeros_like(a)).sum())

    def describe_fault(self, allowed: float) -> str | None:
        if self.infinite:
            return "is not finite in half precision"
        if self.apart > allowed**2 * self.norm:
            return f"differs in half precision by more than {allowed:g} of its norm"
        return None


def find_faults(
    model: onnx.ModelProto, made: onnx.ModelProto, task: Task, allowed: float
) -> dict[str, str]:
    """Return the tensors that are wrong though all that they are made of is right, and why."""
    tallies: dict[str, DifferenceTally] = defaultdict(DifferenceTally)
    ending = make_unused_suffix(model, HALF)
    for exact, got in run_side_by_side(model, made, task):
        for name, tensor in exact.items():
            other = got.get(name + ending, got.get(name))
            if other is not None and np.issubdtype(tensor.dtype, np.floating):
                tallies[name].add(tensor, other)
    found = {name: tally.describe_fault(allowed) for name, tally in tallies.items()}
    wrong = {name: why for name, why in found.items() if why is not None}
    makers = {name: node for node in model.graph.node for name in node.output}
    return {
        name: f"{name!r} {why}"
        for name, why in wrong.items()
        if name not in makers or not any(read in wrong for read in makers[name].input)
    }


def run_side_by_side(
    model: onnx.ModelProto, made: onnx.ModelProto, task: Task
) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield every tensor of both graphs, inputs among them, batch by batch."""
    import onnx

    from attar.engines.runtimes import onnxruntime

    step = min(BATCH, task.ranges.get("batch", (1, BATCH))[1])
    copies = [onnx.ModelProto.FromString(each.SerializeToString()) for each in (model, made)]
    graphs = [expose_results(round_half_results(each)) for each in copies]
    exact, got = (
        onnxruntime.open_session({"model": graph}, None, optimize=False) for graph in graphs
    )
    with exact as in_float, got as in_half:
        for seen in iterate_spread(task, task.split("validation"), SAMPLES, step):
            yield {**seen.inputs, **in_float(seen.inputs)}, in_half(seen.inputs)


def find_nearest_half_nodes(
    model: onnx.ModelProto, inside: Collection[str], wrong: Mapping[str, str]
) -> dict[str, str]:
    """Return the half nodes that make and read these tensors.

    If those are float already, they are the nearest half nodes before them.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    neighbours: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in {*node.input, *node.output}:
            neighbours[name].append(node)
    reasons: dict[str, str] = {}
    for tensor, why in wrong.items():
        near = {node.name: node for node in neighbours[tensor]}
        while near and not near.keys() & set(inside):
            read = {name for node in near.values() for name in node.input}
            near = {makers[name].name: makers[name] for name in read if name in makers}
        reasons |= {name: why for name in near if name in inside and name not in reasons}
    return reasons


def format_first_fault(model: onnx.ModelProto, wrong: Mapping[str, str]) -> str:
    """Return the first of these faults in the graph's order, with its node."""
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            if name in wrong:
                return f"{node.op_type} {node.name!r}: {wrong[name]}"
    return next(iter(wrong.values()))

"""The correlation of a graph with the teacher, before an engine is built of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from attar.engines.graphs.half_precision import round_half_results
from attar.models.probabilities import from_logits
from attar.models.task import Array, Task, find_known
from attar.models.views import iterate_spread
from attar.proof.estimates.metrics import compare_outputs, select_worst
from attar.proof.estimates.sums import Mask
from attar.stages.artifacts import Answers

BATCH = 256  # samples a call


def measure_correlation(file: Path, task: Task, answers: Answers) -> float:
    """Return CORR with the teacher's answers on validation, of the worst output.

    It is what the gate of that name limits on test.
    """
    stored = answers.read_split("validation")
    expected = {
        name: from_logits(output.kind, stored[name]) for name, output in task.outputs.items()
    }
    return correlate_outputs(task, expected, run_graph(file, task), read_known(task))


def run_graph(graph: Path | bytes, task: Task, samples: int | None = None) -> dict[str, Array]:
    """Return the outputs on validation, or on so many samples spread over it.

    The graph runs as it is written, so that another machine's kernels choose no other attempt.
    """
    import onnx

    from attar.engines.runtimes import onnxruntime

    model = onnx.load(graph) if isinstance(graph, Path) else onnx.load_from_string(graph)
    split = task.split("validation")
    step = min(BATCH, task.ranges.get("batch", (1, BATCH))[1])
    with onnxruntime.open_session(
        {"model": round_half_results(model).SerializeToString()}, None, optimize=False
    ) as predict:
        parts = [
            task.answer(predict.graphs, seen.inputs)
            for seen in iterate_spread(task, split, samples or len(split), step)
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in task.outputs}


def read_known(task: Task, samples: int | None = None) -> dict[str, Mask]:
    """Return where the outputs of ``run_graph`` count, of those with positions to ignore."""
    if all(output.ignore is None for output in task.outputs.values()):
        return {}
    split = task.split("validation")
    seen = list(iterate_spread(task, split, samples or len(split), BATCH))
    parts = [find_known(task, batch.targets) for batch in seen]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def correlate_outputs(
    task: Task,
    expected: Mapping[str, Array],
    got: Mapping[str, Array],
    known: Mapping[str, Mask],
) -> float:
    """Return the correlation of the worst output; 0 if a side is constant or not finite.

    ``known``: see ``read_known``.
    """
    if not all(np.isfinite(got[name]).all() for name in task.outputs):
        return 0.0
    found = select_worst(
        [
            compare_outputs(output.kind, expected[name], got[name], known.get(name)).numbers
            for name, output in task.outputs.items()
        ]
    )
    return round(float(found["correlation"] or 0), 6)

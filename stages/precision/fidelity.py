"""Fidelity: what a graph with its precision baked in still has of the teacher, before anything is built of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attar.models.task import Task
from attar.models.views import spread
from attar.stages.artifacts import Answers
from attar.stages.proof.metrics import compare, worst

BATCH = 256  # samples a call


def correlation(file: Path, task: Task, answers: Answers) -> float:
    """CORR with the teacher's stored answers on validation, of the worst output: what the gate of that name asks for on test.

    As the graph is written, so that another machine's integer kernels would not choose another rung. 0 where a side is constant.
    """
    from attar.stages.runtimes import onnxruntime

    split, expected = task.split("validation"), answers.of("validation")
    step = min(BATCH, task.ranges.get("batch", (1, BATCH))[1])
    with onnxruntime.opened({"model": file}, None, optimize=False) as predict:
        parts = [task.answer(predict.graphs, seen.inputs) for seen in spread(task, split, len(split), step)]
    got = {name: np.concatenate([part[name] for part in parts]) for name in task.outputs}
    found = worst([compare(output.kind, expected[name], got[name]).numbers for name, output in task.outputs.items()])
    return round(float(found["correlation"] or 0), 6)

"""Stored: whether the stored answers are those of the teacher that is measured."""

from __future__ import annotations

import numpy as np

from attar.models import views
from attar.models.probabilities import to_logits
from attar.models.task import Predict, SplitName, Task
from attar.pipeline.core.errors import StageError
from attar.proof.sizes import compute_difference
from attar.stages.artifacts import Answers, Model

ROWS = 32
"""Samples of every view that are asked for again: other answers differ from the first on."""
TOLERANCE = 1e-2
"""Of the largest magnitude: float16 keeps three digits, and another device rounds otherwise."""


def check_answers(task: Task, teacher: Model, answers: Answers) -> None:
    """Ask the teacher again for a few samples of the test split and of every learned view.

    ``task`` is what the teacher reads. Raises StageError if an answer differs from the stored one.
    """
    kept: list[tuple[SplitName, int | None]] = [
        ("test", None),
        *(("train", view) for view in range(answers.facts["views"])),
    ]
    kept += [("transfer", view) for view in range(answers.facts["views"]) if task.transfer]
    with teacher.open() as predictor:
        for split, view in kept:
            compare_view(
                task, lambda inputs: task.answer(predictor.graphs, inputs), answers, split, view
            )


def compare_view(
    task: Task, predict: Predict, answers: Answers, split: SplitName, view: int | None
) -> None:
    stored = answers.open_rows(split, view)
    seen = views.make_chunk(task, task.split(split), 0, seed=answers.facts["seed"], view=view)
    most = task.ranges.get("batch", (1, ROWS))[1]
    rows = np.arange(min(ROWS, most, len(seen.indices)))
    live = predict(seen.take(rows).inputs)
    for name, output in task.outputs.items():
        kept, of = stored[name][seen.indices[rows]], to_logits(output.kind, live[name])
        if stored[name].partial:
            of = np.where(
                kept > kept.min(-1, keepdims=True), of, kept
            )  # the others share one value, the least
        apart = compute_difference(kept, of) if kept.shape == of.shape else np.inf
        if not apart <= TOLERANCE:
            which = "" if view is None else f", view {view}"
            raise StageError(
                f"the stored answers are not this teacher's: {name!r} of {split}{which} is off by "
                f"{apart:.2g} of its magnitude, allowed {TOLERANCE:g}; `attar show RECIPE` names "
                "the answers in the store, delete their folder and label again"
            )

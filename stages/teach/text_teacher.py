"""Adopt a function from texts to texts as the teacher. Only its translations are known."""

from __future__ import annotations

import numpy as np

from attar.models import views
from attar.models.checks import task as task_check
from attar.models.generation import MODEL
from attar.models.task import Task, load_task
from attar.models.text_function import (
    TextFunction,
    find_source,
    load_text_function,
    make_text_task,
    quote,
)
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts
from attar.stages.learning.validation import Validation

ASKED_TWICE = 8
"""Samples of validation that are asked together and alone."""


def adopt_function(task_name: str, function_name: str) -> Facts:
    """Check the function against the task, and evaluate it on validation.

    Raises StageError for a task without texts, for what is no translation, and for a function whose
    translation of a text depends on other texts.
    """
    task = load_task(task_name)
    task_check.check_task_once(task)
    reads, function = make_text_task(task), load_text_function(function_name, task)
    check_alone(reads, function)
    scores = Validation(reads).evaluate({MODEL: function}, "teacher")
    return {
        "task": task_name,
        "function": function_name,
        "device": "cpu",
        "score": scores["score"],
        "history": [],
        "best_epoch": 0,
    }


def check_alone(reads: Task, function: TextFunction) -> None:
    """Raises StageError unless a text has the same translation alone as among others."""
    first = views.make_chunk(reads, reads.split("validation"), 0)
    seen = first.take(np.arange(min(ASKED_TWICE, len(first.indices))))
    output, source = next(iter(reads.outputs)), find_source(function.task)
    together = function(seen.inputs)[output]
    for row, tokens in enumerate(together):
        text = seen.inputs[source][row : row + 1]
        if (function({source: text})[output][0] != tokens).any():
            raise StageError(
                f"{function.name} translates {quote(text.tolist()[0])} otherwise alone than "
                f"among {len(together)} texts, or the second time; a translation must depend on "
                "its own text, and be the same each time"
            )

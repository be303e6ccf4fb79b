"""The teacher's stored sequences of one split, and a model's next tokens along them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attar.models.generation import Decoding, Floats, Integers, find_decoding
from attar.models.task import Arrays, Predict, Task
from attar.models.top_answers import TOP, TopAnswers, describe_following, select_top
from attar.stages.artifacts import Answers


@dataclass(frozen=True)
class TeacherPath:
    """What every hop of a network that generates is compared along."""

    decoding: Decoding
    tokens: Integers
    """``[N, longest]``: the teacher's own most likely tokens."""
    top: TopAnswers
    """Its largest log-probabilities at each of them."""

    @classmethod
    def read(cls, task: Task, answers: Answers, split: str) -> TeacherPath | None:
        """Read a clean split; None for a task that does not generate."""
        decoding = find_decoding(task)
        if decoding is None:
            return None
        rows = answers.open_rows(split)
        tokens = rows[decoding.output][:].astype(np.int64)
        return cls(decoding, tokens, rows[decoding.output + TOP].read_top(np.arange(len(tokens))))

    def describe_model(
        self, graphs: Mapping[str, Predict], inputs: Arrays, rows: Integers
    ) -> Floats:
        """Return a model's next tokens along the paths of these samples, ``[n, T, k + 2]``."""
        top = select_top(self.top, rows)
        return describe_following(graphs, inputs, self.tokens[rows], top, self.decoding)

"""The teacher's stored sequences of one split, and a model's next tokens along them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.models.generation import Decoding, Floats, Integers, find_decoding, measure_lengths
from attar.models.task import Arrays, Predict, Task
from attar.models.top_answers import (
    TOP,
    TopAnswers,
    describe_at,
    describe_following,
    select_top,
)
from attar.stages.artifacts import Answers


@dataclass(frozen=True)
class TeacherPath:
    """What every hop of a network that generates is compared along."""

    decoding: Decoding
    tokens: Integers
    """``[N, longest]``: the teacher's own most likely tokens."""
    top: TopAnswers | None
    """Its largest log-probabilities at each of them; None of a teacher that only translates."""

    @classmethod
    def read(cls, task: Task, answers: Answers, split: str) -> TeacherPath | None:
        """Read a clean split; None for a task that does not generate."""
        decoding = find_decoding(task)
        if decoding is None:
            return None
        rows = answers.open_rows(split)
        tokens = rows[decoding.output][:].astype(np.int64)
        if answers.why_opaque:
            return cls(decoding, tokens, None)
        return cls(decoding, tokens, rows[decoding.output + TOP].read_top(np.arange(len(tokens))))

    @property
    def own(self) -> npt.NDArray[np.bool_]:
        """Where each sample has tokens, up to the longest, ``[N, T]``."""
        lengths = measure_lengths(self.tokens, self.decoding.vocabulary)
        own: npt.NDArray[np.bool_] = np.arange(int(lengths.max())) < lengths[:, None]
        return own

    def describe_teacher(self) -> Floats:
        """Return the teacher's next tokens, ``[N, T, k + 2]``.

        Without its probabilities they are ``[N, T, 1]``: the token that it says.
        """
        if self.top is not None:
            return self.top.describe()
        tokens = self.tokens[:, : self.own.shape[1]]
        said: Floats = np.where(self.own, tokens, np.nan).astype(np.float32)
        return said[..., None]

    def describe_model(
        self, graphs: Mapping[str, Predict], inputs: Arrays, rows: Integers
    ) -> Floats:
        """Return a model's next tokens along the paths of these samples, ``[n, T, k + 2]``.

        Without the teacher's probabilities ``k`` is 1: the token that the teacher says.
        """
        tokens = self.tokens[rows]
        if self.top is not None:
            top = select_top(self.top, rows)
            return describe_following(graphs, inputs, tokens, top, self.decoding)
        own = self.own[rows]
        said = tokens[:, : own.shape[1], None]
        return describe_at(graphs, inputs, tokens, said, own, self.decoding)

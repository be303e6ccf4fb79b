"""A task whose points are written as two words, so that its bundle reads text."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from attar.models.task import InMemory, Split, SplitName
from tests.support.proof.proof_parts import SAMPLES, TEACHER, Points
from tests.support.tasks.words import WORDS

NAME = "tests.support.tasks.word_pairs:WordPairs"


class WordPairs(Points):
    """Two words are a point: their ids, 4 to 8, less 6."""

    preprocess: ClassVar[Any] = {}  # a fixture knows where the tokenizer is

    def split(self, name: SplitName) -> Split:
        rows = np.random.default_rng(0).integers(0, len(WORDS), (SAMPLES, 2))
        pairs = np.array([" ".join(WORDS[i] for i in row) for row in rows])
        return InMemory({"x": pairs}, {"label": ((rows - 2) @ TEACHER).argmax(1)})


class Phrases(WordPairs):
    """With a tokenizer of their own."""

    preprocess: ClassVar[Any] = {}

"""Debian's package descriptions as sentences: near together what means the same. There is nothing
to classify.

The section of a package is no target of the embedding. It only tells how good one is: is the
nearest other text of the test split from the same section?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Step
from attar.models.task import Array, Arrays, Output
from attar.models.tasks import minilm, snapshot
from attar.models.tasks.retrieval import compute_share_found, measure_retrieval
from attar.models.tasks.topics import HOME, Topics, TopicsForMiniLM


class Sentences(Topics):
    """The texts, splits and vocabulary of ``Topics``; a vector with the dimensions of MiniLM-L6."""

    outputs = {"vector": Output(("batch", 384), kind="embedding")}
    classes = ()
    score_name = "precision at 1"

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return measure_retrieval(outputs["vector"], targets["section"])

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        return compute_share_found(statistics)


class SentencesForMiniLM(Sentences):
    """The same sentences as tokens of MiniLM-L6."""

    inputs = TopicsForMiniLM.inputs

    @property
    def preprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # as in Topics
        return TopicsForMiniLM().preprocess

    def data(self) -> list[Path | str]:
        """Return the vocabulary alone: the recipe names the teacher's weights."""
        return [HOME.find() / snapshot.TEXTS, minilm.find_folder() / "tokenizer.json"]

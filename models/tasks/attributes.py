"""Attributes of digits: several yes-or-no questions about each image of ``models.tasks.digits``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from attar.models.scores import compute_f1, count_decisions
from attar.models.task import Array, Arrays, Batch, InMemory, Output, Split, SplitName
from attar.models.tasks.digits import Digits

ATTRIBUTES: Mapping[str, frozenset[int]] = {
    "even": frozenset({0, 2, 4, 6, 8}),
    "above four": frozenset({5, 6, 7, 8, 9}),
    "prime": frozenset({2, 3, 5, 7}),
    "square": frozenset({0, 1, 4, 9}),
    "multiple of three": frozenset({0, 3, 6, 9}),
    "has a loop": frozenset({0, 6, 8, 9}),
}
"""By attribute, the digits that have it."""


class Attributes(Digits):
    """Which of six attributes has the digit? Any number of them applies: a zero has four."""

    outputs = {  # as `Task` declares it
        "attributes": Output(("batch", len(ATTRIBUTES)), kind="multilabel", target="attributes")
    }
    classes = tuple(ATTRIBUTES)
    score_name = "F1"

    def split(self, name: SplitName) -> Split:
        digits: Batch = super().split(name).take(np.arange(len(super().split(name))))
        has = [np.isin(digits.targets["label"], list(which)) for which in ATTRIBUTES.values()]
        return InMemory(digits.inputs, {"attributes": np.stack(has, 1).astype(np.int64)})

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return count_decisions(outputs["attributes"], targets["attributes"])

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        """Return micro F1."""
        return compute_f1(statistics)

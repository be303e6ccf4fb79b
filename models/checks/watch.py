"""Watches a split that is read for hours: whether it still has the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from attar.models.checks.calls import CheckedSplit
from attar.models.checks.task import are_same_arrays
from attar.models.task import Batch
from attar.pipeline.core.errors import StageError

WATCHED_SAMPLES = 64
"""Samples that are read again."""


@dataclass(frozen=True)
class SplitWatch:
    """Some samples of a split, spread evenly, as they were at first."""

    split: CheckedSplit
    length: int
    indices: npt.NDArray[np.int64]
    first: Batch

    @classmethod
    def start(cls, split: CheckedSplit) -> Self:
        length = len(split)
        count = min(WATCHED_SAMPLES, length)
        indices = np.arange(count, dtype=np.int64) * length // count
        return cls(split, length, indices, split.take(indices))

    def check(self) -> None:
        """Raises StageError if the split has another length now, or if one of these samples has
        changed."""
        length = len(self.split)
        if length != self.length:
            self.report(f"it had {self.length} samples and has {length}")
        batch = self.split.take(self.indices)
        same_targets = are_same_arrays(batch.targets, self.first.targets)
        if not same_targets or not are_same_arrays(batch.inputs, self.first.inputs):
            self.report(f"of {len(self.indices)} samples that were read again some are others")

    def report(self, difference: str) -> None:
        raise StageError(
            f"{self.split.where} changed while it was read: {difference}; leave its files alone "
            "until the run is over, and run the same command again"
        )

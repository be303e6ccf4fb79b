"""Some samples of a split, such as those that are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.models.task import Batch, Split


@dataclass(frozen=True)
class Subset(Split):
    """The samples ``rows`` of another split, in this order."""

    split: Split
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        return self.split.take(self.rows[indices])

    def name_sample(self, index: int) -> str:
        return self.split.name_sample(int(self.rows[index]))

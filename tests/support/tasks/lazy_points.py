"""Points in a ring, computed when they are read: as many as the environment says, in no memory."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from attar.models.task import Batch, Split, SplitName
from tests.support.tasks.ring_task import Ring


class LazySplit(Split):
    def __init__(self, samples: int, offset: int) -> None:
        self.samples, self.offset = samples, offset

    def __len__(self) -> int:
        return self.samples

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        places = (indices + self.offset)[:, None] * np.sqrt([2.0, 3.0])
        points = (places % 2 - 1).astype(np.float32)
        return Batch({"point": points}, {"inside": (np.abs((points**2).sum(1) - 0.5) < 0.3).astype(np.int64)})


class LazyRing(Ring):
    def split(self, name: SplitName) -> Split:
        samples = {"train": int(os.environ["LAZY_SAMPLES"])}.get(name, 1000)
        return LazySplit(samples, {"train": 0, "validation": 5_000_000, "test": 6_000_000}.get(name, 0))

"""Fashion-MNIST with wrong labels: the task of ``benchmarks.distillation --task noisy``."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attar.models.task import Batch, Split, SplitName
from attar.models.tasks.fashion import FashionMnist

WRONG = 0.3
"""The share of the training labels that are another class."""
LEARNED = 20_000
"""Training images; the more there are, the less the wrong labels matter."""


class MislabelledSplit(Split):
    """The first samples of a split, of which some have the label of another class."""

    def __init__(self, split: Split, samples: int, share: float, classes: int) -> None:
        self.split = split
        generator = np.random.default_rng(0)
        offsets = generator.integers(1, classes, samples)  # to another class, each as likely
        self.offsets = np.where(generator.random(samples) < share, offsets, 0)
        self.classes = classes

    def __len__(self) -> int:
        return len(self.offsets)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        batch = self.split.take(indices)
        labels = (batch.targets["label"] + self.offsets[indices]) % self.classes
        return Batch(batch.inputs, {"label": labels})


class NoisyFashion(FashionMnist):
    """Wrong labels in training alone: validation and test tell what was learned in spite of
    them."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        if name != "train":
            return split
        return MislabelledSplit(split, LEARNED, WRONG, len(self.classes))

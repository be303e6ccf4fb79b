"""A task of token sequences of many lengths, and networks that read it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from attar.models.networks import text
from attar.models.networks.text import Reader
from attar.models.task import Array, Arrays, Batch, InMemory, Output, Split, SplitName, Task, Tensor


class PaddedToLongest(InMemory):
    """As a tokenizer gives them: what is taken together is padded to the longest of them."""

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        taken = super().take(indices)
        tokens = taken.inputs["text"]
        return Batch({"text": tokens[:, : int((tokens != 0).sum(1).max())]}, taken.targets)


class RaggedWords(Task):
    """Tokens of any length up to 12, padded with 0, and a class; drawn, but the lengths are as ragged as real ones."""

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=50, pad=0)}
    outputs = {"logits": Output(("batch", 5), target="label")}
    ranges = {"batch": (1, 8), "sequence": (1, 12)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng(len(name))
        tokens = generator.integers(1, 50, (60, 12)) * (np.arange(12) < generator.integers(1, 13, (60, 1)))
        return PaddedToLongest({"text": tokens}, {"label": tokens[:, 0] % 5})

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["logits"]), 1))


def transformer() -> Reader:
    return text.transformer(width=16, vocabulary=50, length=12, classes=5)


def convolution() -> Reader:
    return text.convolution(width=16, vocabulary=50, classes=5)

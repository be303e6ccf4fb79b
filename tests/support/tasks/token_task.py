"""A small task that is not about images: two named inputs, a dynamic ``sequence`` axis, an output that is a number.

Each sample is a sentence of tokens, padded at its end. Its value is the mean worth of its tokens, where a token that
follows an odd one counts double. It goes through every slot in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor

VOCABULARY, LONGEST = 32, 16
SAMPLES = {"train": 2048, "validation": 256, "test": 512}


class TokenSentences(Task):
    inputs = {
        "tokens": Tensor("int64", ("batch", "sequence"), high=VOCABULARY, pad=0),
        "mask": Tensor("float32", ("batch", "sequence")),
    }
    outputs = {"value": Output(("batch", 1), kind="values", target="value")}
    ranges = {"batch": (1, 64), "sequence": (4, LONGEST)}
    score_name = "R2"

    def data(self) -> list[str]:
        return ["generated sentences 1"]

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng((7, list(SAMPLES).index(name)))
        count = SAMPLES[name]
        tokens = generator.integers(0, VOCABULARY, (count, LONGEST))
        mask = (np.arange(LONGEST) < generator.integers(4, LONGEST + 1, (count, 1))).astype(np.float32)
        return InMemory({"tokens": tokens * mask.astype(np.int64), "mask": mask}, {"value": worth(tokens, mask)})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """A random token in place of some: the teacher's answer changes with it, the label does not."""
        tokens, mask = inputs["tokens"], inputs["mask"]
        other = generator.integers(0, VOCABULARY, tokens.shape)
        replaced = (generator.random(tokens.shape) < 0.02) & mask.astype(bool)
        return {"tokens": np.where(replaced, other, tokens), "mask": mask}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        """Squared error, and squared deviation from 0, near the mean of all values: (N, 2)."""
        value = np.asarray(targets["value"], np.float64)[:, 0]
        return np.stack([(np.asarray(outputs["value"], np.float64)[:, 0] - value) ** 2, value**2], 1)

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        """The share of the variance that is explained: R squared."""
        error, deviation = statistics.sum(0)
        return float(1 - error / deviation)


def worth(tokens: npt.NDArray[np.int64], mask: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    values = np.sin(np.arange(VOCABULARY) * 0.7)[tokens]
    doubled = np.ones(tokens.shape)
    doubled[:, 1:] += tokens[:, :-1] % 2
    made = (values * doubled * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True)
    return np.asarray(made * 3, np.float32)  # (N, 1)


class PairReader(nn.Module):
    """Embeddings, each token with the one before it, a mean over the sentence, one number."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.pair = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 1)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)  # (B, S) -> (B, S, width)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)  # (B, S, width)
        x = self.pair(torch.cat([x, before], 2))  # (B, S, 2*width)
        weights = (mask / mask.sum(1, keepdim=True)).unsqueeze(2)  # (B, S, 1)
        return self.head((x * weights).sum(1))  # type: ignore[no-any-return]  # (B, 1); nn.Module calls are untyped


def teacher(width: int = 32) -> PairReader:
    return PairReader(width)


def student(width: int = 8) -> PairReader:
    return PairReader(width)

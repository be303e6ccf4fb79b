"""Embeddings of generated texts: nothing has a label, only which two texts are of one source. It goes through every slot.

A text is a bag of words; both texts of a source draw theirs from the source's own distribution. The teacher is whatever network
gives a vector: here one with random weights, which keeps near together what is alike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.retrieval import compute_share_found, measure_retrieval, sum_groups

WORDS, DIMENSIONS = 24, 8
SAMPLES = {"train": 1024, "validation": 600, "test": 600}


class EmbeddedTexts(Task):
    inputs = {"words": Tensor("float32", ("batch", WORDS))}
    outputs = {"vector": Output(("batch", DIMENSIONS), kind="embedding")}
    ranges = {"batch": (1, 32)}
    score_name = "precision at 1"

    def data(self) -> list[str]:
        return ["generated texts 1"]

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng((11, list(SAMPLES).index(name)))
        source = np.repeat(np.arange(SAMPLES[name] // 2), 2)
        chances = generator.dirichlet(np.full(WORDS, 0.3), len(source) // 2)
        words = np.stack([generator.multinomial(40, chances[each]) for each in source]) / 8
        return InMemory({"words": words.astype(np.float32)}, {"source": source})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Some words are left out: the teacher's vector follows."""
        kept = generator.random(inputs["words"].shape) < 0.9
        return {"words": np.where(kept, inputs["words"], np.float32(0))}

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        """Both texts of a source in one row: they are one observation."""
        return sum_groups(measure_retrieval(outputs["vector"], targets["source"]), targets["source"])

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        return compute_share_found(statistics)


class UnlabelledTexts(EmbeddedTexts):
    """The same without any target: what is scored is how far from one point the vectors lie, which no target is needed for."""

    score_name = "spread"

    def split(self, name: SplitName) -> Split:
        return InMemory(super().split(name).take(np.arange(SAMPLES[name])).inputs, {})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        vectors = np.asarray(outputs["vector"], np.float64)
        unit = vectors / np.maximum(1e-12, np.linalg.norm(vectors, axis=1, keepdims=True))
        spread: npt.NDArray[np.float64] = 1 - unit @ unit.mean(0)  # (N,): 1 minus the mean cosine with all
        return spread[:, None]

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        return float(statistics[:, 0].mean())


def teacher(width: int = 64) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WORDS, width), nn.Tanh(), nn.Linear(width, DIMENSIONS))  # (B, words) -> (B, dimensions)


def student(width: int = 12) -> nn.Sequential:
    """Of any width inside; the last layer projects to the teacher's dimensions."""
    return nn.Sequential(nn.Linear(WORDS, width), nn.ReLU(), nn.Linear(width, DIMENSIONS))  # (B, words) -> (B, dimensions)


def save_teacher(path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(teacher().state_dict(), path)

"""Points and whether they lie in a ring: two classes, a network with or without dropout and batch statistics, nothing heavy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn

from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits

SAMPLES = {"train": 640, "validation": 128, "test": 128}


class Ring(Task):
    inputs = {"point": Tensor("float32", ("batch", 2))}
    outputs = {"logits": Output(("batch", 2), target="inside")}
    ranges = {"batch": (1, 64)}
    classes = ("outside", "inside")

    def data(self) -> list[str]:
        return ["generated points 1"]

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng((3, list(SAMPLES).index(name)))
        points = generator.uniform(-1, 1, (SAMPLES[name], 2)).astype(np.float32)
        return InMemory({"point": points}, {"inside": (np.abs((points**2).sum(1) - 0.5) < 0.3).astype(np.int64)})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"point": inputs["point"] + generator.normal(0, 0.02, inputs["point"].shape).astype(np.float32)}

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["inside"])


class Scarce(Ring):
    """A quarter of the points to learn from has labels."""

    transfer = True

    def split(self, name: SplitName) -> Split:
        if name not in ("train", "transfer"):
            return super().split(name)
        return hide_labels(super().split("train"), SAMPLES["train"] // 4, name)


def hide_labels(whole: Split, labelled: int, name: SplitName) -> Split:
    """Return the first samples with their labels for ``train``, and the others without them for ``transfer``."""
    if name == "train":
        some = whole.take(np.arange(labelled))
        return InMemory(some.inputs, some.targets)
    return InMemory(whole.take(np.arange(labelled, len(whole))).inputs, {})


def layers(width: int = 8, dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    first = [nn.Linear(2, width), nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*first, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))  # (B, 2) -> (B, 2)

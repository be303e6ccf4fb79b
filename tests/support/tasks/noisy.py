"""Samples that are their own numbers; a view adds noise to them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor


class Noisy(Task):
    """Each sample is its own number; a view adds noise to it."""

    inputs = {"x": Tensor("float32", ("batch", 2))}
    outputs = {"y": Output(("batch", 1), kind="values")}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return numbered(1300)

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        noise = generator.standard_normal(inputs["x"].shape).astype(np.float32)
        return {"x": np.asarray(inputs["x"], np.float32) + noise}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


def numbered(count: int) -> InMemory:
    column = np.arange(count, dtype=np.float32)
    return InMemory({"x": np.stack([column, column], 1)}, {"label": np.arange(count)})


TASK, SPLIT = Noisy(), numbered(1300)

"""Digits: 1,797 grey images of 8x8 from the UCI set that scikit-learn ships. It trains in seconds
and needs no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Normalize, Scale, Step
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor, hits
from attar.models.tasks.images import shift
from attar.pipeline.core.errors import StageError

TRAIN, VALIDATION = 1197, 300  # of 1,797; the remaining 300 are the test split


class Digits(Task):
    """Ten digits, 8x8 pixels of 0 to 16. Split by a fixed permutation, because the set is ordered
    by writer."""

    inputs = {"image": Tensor("float32", ("batch", 1, 8, 8))}
    outputs = {"logits": Output(("batch", 10), target="label")}
    classes = tuple("0123456789")
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [Scale(by=1 / 16), Normalize(mean=(0.305,), std=(0.376,))]
    }

    def data(self) -> list[Path | str]:
        try:
            from sklearn import __version__ as version
        except ModuleNotFoundError as error:
            raise StageError(
                "the digits come with scikit-learn, which is not installed: pip install "
                "scikit-learn"
            ) from error
        return [f"scikit-learn digits {version}"]

    def split(self, name: SplitName) -> Split:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        rows = {
            "train": order[:TRAIN],
            "validation": order[TRAIN : TRAIN + VALIDATION],
            "test": order[TRAIN + VALIDATION :],
        }[name]
        images = digits.images[rows, None].astype(np.uint8)  # (N, 1, 8, 8)
        return InMemory({"image": images}, {"label": digits.target[rows].astype(np.int64)})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Shift by up to one pixel; digits are not mirrored."""
        return {"image": shift(inputs["image"], generator, 1)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])

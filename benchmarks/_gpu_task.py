"""Images of 224 pixels that are drawn: a training of a real size, and nothing to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import ChannelsFirst, Normalize, Scale, Step
from attar.models.task import (
    Array,
    Arrays,
    Batch,
    InMemory,
    Output,
    Split,
    SplitName,
    Task,
    Tensor,
    hits,
)

SIDE, CLASSES, KEPT, SAMPLES = 224, 1000, 64, 2560


class Repeated(Split):
    """Few images, given again and again, so that memory does not matter."""

    def __init__(self, few: InMemory) -> None:
        self.few = few

    def __len__(self) -> int:
        return SAMPLES

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        return self.few.take(indices % KEPT)


class DrawnPictures(Task):
    inputs = {"image": Tensor("float32", ("batch", 3, SIDE, SIDE))}
    outputs = {"logits": Output(("batch", CLASSES), target="label")}
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [
            ChannelsFirst(),
            Scale(by=1 / 255),
            Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        ]
    }

    def data(self) -> list[str]:
        return ["drawn 1"]

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (KEPT, SIDE, SIDE, 3), np.uint8)
        return Repeated(InMemory({"image": images}, {"label": np.arange(KEPT)}))

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Mirror half of the images."""
        images = inputs["image"]
        mirrored = generator.random(len(images)) < 0.5
        return {"image": np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])

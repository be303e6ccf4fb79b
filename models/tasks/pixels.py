"""Pixels: which digit does each pixel belong to? Pairs of scikit-learn's digits on a canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Normalize, Scale, Step
from attar.models.scores import compute_mean_iou, count_overlaps
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.digits import Digits

PARTS: Mapping[SplitName, slice] = {
    "test": slice(0, 600),
    "validation": slice(600, 800),
    "train": slice(800, None),
}
"""Of the digits. Each test digit is on one canvas, so that canvases are independent samples."""
ROUNDS: Mapping[SplitName, int] = {"test": 1, "validation": 1, "train": 3}
"""How often each digit is used."""
HEIGHT, WIDTH, DIGIT = 12, 20, 8
PAPER, INK = 4, 8
"""Below the first intensity of 16 a pixel is paper, from the second on it is ink."""
BACKGROUND, IGNORED = 0, 255


def draw_canvases(
    images: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64], generator: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return canvases and the labels of their pixels, both ``(N, height, width)``.

    Of each pair ``(N, 2, 8, 8)`` one digit is drawn somewhere in either half.
    """
    count = len(images)
    canvases = np.zeros((count, HEIGHT, WIDTH), np.uint8)
    labels = np.full_like(canvases, BACKGROUND)
    rows = np.arange(count)[:, None, None]
    for half in (0, 1):
        top, left = generator.integers(
            0, [[HEIGHT - DIGIT + 1], [WIDTH // 2 - DIGIT + 1]], (2, count)
        )
        down = (top[:, None] + np.arange(DIGIT))[:, :, None]
        across = (half * (WIDTH // 2) + left[:, None] + np.arange(DIGIT))[:, None, :]
        ink, numbers = images[:, half], (1 + digits[:, half]).astype(np.uint8)
        canvases[rows, down, across] = ink
        edges = np.where(ink < PAPER, BACKGROUND, IGNORED)
        labels[rows, down, across] = np.where(ink >= INK, numbers[:, None, None], edges)
    return canvases, labels


class Pixels(Task):
    """Background, or the digit of each pixel. The edges of the ink are neither, and ignored."""

    inputs = {"image": Tensor("float32", ("batch", 1, HEIGHT, WIDTH))}
    outputs = {"logits": Output(("batch", HEIGHT, WIDTH, 11), target="label", ignore=IGNORED)}
    classes = ("background", *"0123456789")
    score_name = "mean IoU"
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "image": [Scale(by=1 / 16), Normalize(mean=(0.163,), std=(0.313,))]
    }

    def data(self) -> list[Path | str]:
        return Digits().data()

    def split(self, name: SplitName) -> Split:
        from sklearn.datasets import load_digits

        digits, generator = load_digits(), np.random.default_rng(0)
        own = generator.permutation(len(digits.target))[PARTS[name]]
        order = np.concatenate([generator.permutation(own) for _ in range(ROUNDS[name])])
        pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
        images = digits.images[pairs].astype(np.uint8)
        canvases, labels = draw_canvases(images, digits.target[pairs], generator)
        return InMemory({"image": canvases[:, None]}, {"label": labels})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Make each image brighter or darker; labels stay where they are, so pixels do, too."""
        images = np.asarray(inputs["image"], np.float32)
        factors = generator.uniform(0.8, 1.2, (len(images), 1, 1, 1)).astype(np.float32)
        return {"image": images * factors}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return count_overlaps(outputs["logits"], targets["label"], IGNORED)

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        """Return the mean IoU."""
        return compute_mean_iou(statistics)

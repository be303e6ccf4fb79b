"""Digits with three attributes each, and whether each pixel is paper, ink of an even digit or ink of an odd one.

The edges of the ink are neither, and ignored. Below it, the same task with one thing wrong each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from attar.models.scores import count_hits
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName
from attar.models.tasks.digits import Digits

PARTS: Mapping[SplitName, slice] = {"test": slice(0, 416), "validation": slice(416, 576), "train": slice(997, None)}
ATTRIBUTES = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (0, 6, 8, 9))
"""The digits that are even, above four, and drawn with a loop."""
OUTPUTS = {
    "attributes": Output(("batch", 3), kind="multilabel", target="attributes"),
    "ink": Output(("batch", 8, 8, 3), target="ink", ignore=255),
}
Labels = dict[str, npt.NDArray[np.int64]]


class Marked(Digits):
    """416 images to test with, 160 for validation, 800 to train on."""

    outputs = OUTPUTS
    classes = ()

    def split(self, name: SplitName) -> Split:
        from sklearn.datasets import load_digits

        made = load_digits()
        rows = np.random.default_rng(0).permutation(len(made.target))[PARTS[name]]
        image = made.images[rows, None].astype(np.uint8)  # (N, 1, 8, 8)
        return InMemory({"image": image}, dict(self.spoil(name, label(image[:, 0], made.target[rows]))))

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        """Return the labels of a split; below, what somebody may have made of them."""
        return labels

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        image = np.asarray(inputs["image"], np.float32)
        return {"image": image * generator.uniform(0.8, 1.2, (len(image), 1, 1, 1)).astype(np.float32)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        """The mean of two shares of each sample: of its attributes, and of its pixels with a label."""
        return (share_decisions(outputs["attributes"], targets) + share_pixels(outputs["ink"], targets, 255)) / 2


def share_decisions(logits: Array, targets: Arrays) -> npt.NDArray[np.float64]:
    is_right = (np.asarray(logits, np.float64) > 0) == np.asarray(targets["attributes"], bool)
    shares: npt.NDArray[np.float64] = is_right.mean(1, keepdims=True)
    return shares


def share_pixels(logits: Array, targets: Arrays, ignore: int | None = None) -> npt.NDArray[np.float64]:
    right, known = count_hits(logits, targets["ink"], ignore).T
    shares: npt.NDArray[np.float64] = (right / known)[:, None]
    return shares


def label(image: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64]) -> Labels:
    attributes = np.stack([np.isin(digits, which) for which in ATTRIBUTES], 1).astype(np.int64)
    edges = np.where(image < 4, 0, 255)
    return {"attributes": attributes, "ink": np.where(image < 8, edges, 1 + digits[:, None, None] % 2)}


class LateMarked(Marked):
    """Every label of the test split stands one row late."""

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        return {key: np.roll(each, 1, 0) if name == "test" else each for key, each in labels.items()}


class OtherColumns(Marked):
    """The columns of the test split stand in another order than those of the training split."""

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        return {**labels, "attributes": np.roll(labels["attributes"], 1, 1)} if name == "test" else labels


class Signed(Marked):
    """1 for yes and -1 for no, as hinge losses have it."""

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        return {**labels, "attributes": 2 * labels["attributes"] - 1}


class Numbered(Marked):
    """The numbers of the labels instead of a column for each."""

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        return {**labels, "attributes": labels["attributes"] * np.arange(1, 4)}


class Undeclared(Marked):
    """255 stands in the labels, and nothing says that it is ignored."""

    outputs = {**OUTPUTS, "ink": replace(OUTPUTS["ink"], ignore=None)}


class Taken(Marked):
    """The label of paper is taken for the one to ignore."""

    outputs = {**OUTPUTS, "ink": replace(OUTPUTS["ink"], ignore=0)}


class IgnoredImage(Marked):
    """Of one image every pixel is ignored."""

    def spoil(self, name: SplitName, labels: Labels) -> Labels:
        labels["ink"][3] = 255
        return labels


class Scored(Marked):
    """The score reads the ignored pixels, too, where nothing can be right."""

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return (share_decisions(outputs["attributes"], targets) + share_pixels(outputs["ink"], targets)) / 2


class Displaced(Marked):
    """Augmentations move the pixels by up to two, and their labels stay."""

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"image": np.roll(inputs["image"], generator.integers(-2, 3, 2), (2, 3))}

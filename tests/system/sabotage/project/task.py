"""The digits as a camera gives them, pixels of 0 to 255, with a test split that is large enough for narrow bounds.

Below it, the same task with one thing wrong each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Normalize, Scale, Step
from attar.models.task import Array, Arrays, Batch, InMemory, Split, SplitName
from attar.models.tasks.digits import Digits
from attar.models.tasks.images import shift

TEST, VALIDATION = 832, 165  # of 1,797; 832 is 26 batches of 32, so that no batch of the test split is smaller
Rows = npt.NDArray[np.int64]


@cache
def digits() -> tuple[npt.NDArray[np.uint8], Rows]:
    """All images (N, 1, 8, 8) and their labels, in a fixed order that is not that of the writers."""
    from sklearn.datasets import load_digits

    made = load_digits()
    order = np.random.default_rng(0).permutation(len(made.target))
    pixels = (made.images[order, None] * 255 / 16).round().astype(np.uint8)
    return pixels, made.target[order].astype(np.int64)


class Camera(Digits):
    """832 images to test with, 165 for validation, 800 to train on."""

    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"image": [Scale(by=1 / 255), Normalize(mean=(0.305,), std=(0.376,))]}

    def data(self) -> list[Path | str]:
        return [*super().data(), "832 images to test with"]

    def split(self, name: SplitName) -> Split:
        images, labels = digits()
        rows = {
            "test": slice(0, TEST),
            "validation": slice(TEST, TEST + VALIDATION),
            "train": slice(TEST + VALIDATION, None),
        }[name]
        return InMemory({"image": images[rows]}, {"label": labels[rows]})


def changed(split: Split, images: Array | None = None, labels: Array | None = None) -> InMemory:
    """The same samples with other images or labels."""
    batch = split.take(np.arange(len(split)))
    image = batch.inputs["image"] if images is None else images
    return InMemory({"image": image}, {"label": batch.targets["label"] if labels is None else labels})


class Shuffled(Camera):
    """The labels of the training split belong to other images."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        if name != "train":
            return split
        labels = split.take(np.arange(len(split))).targets["label"]
        return changed(split, labels=np.random.default_rng(1).permutation(labels))


class LateCamera(Camera):
    """Every label of the test split stands one row late."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        if name != "test":
            return split
        return changed(split, labels=np.roll(split.take(np.arange(len(split))).targets["label"], 1))


class Leaking(Camera):
    """A tenth of the training split are test images."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        return joined(split, super().split("test").take(np.arange(80))) if name == "train" else split


class LeakingMoved(Camera):
    """A tenth of the training split are test images, moved to the right by a pixel."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        leaked = super().split("test").take(np.arange(80))
        moved = Batch({"image": np.roll(leaked.inputs["image"], 1, axis=3)}, leaked.targets)  # (N, 1, 8, 8)
        return joined(split, moved) if name == "train" else split


class LeakingPixel(Camera):
    """A tenth of the training split are test images, a pixel of each changed."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        leaked = super().split("test").take(np.arange(80))
        return joined(split, Batch({"image": one_pixel(leaked.inputs["image"])}, leaked.targets)) if name == "train" else split


class LeakingNoise(Camera):
    """A tenth of the training split are test images with so much noise as JPEG leaves: each pixel is up to 4 of 255 off."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        leaked = super().split("test").take(np.arange(80))
        image = np.asarray(leaked.inputs["image"], np.int64)
        image = (image + np.random.default_rng(1).integers(-4, 5, image.shape)).clip(0, 255).astype(np.uint8)
        return joined(split, Batch({"image": image}, leaked.targets)) if name == "train" else split


def one_pixel(images: Array) -> Array:
    """Somewhere in each image, black where it was bright and white where it was dark."""
    made, generator = np.array(images), np.random.default_rng(1)
    rows, columns = generator.integers(0, 8, (2, len(made)))
    pixels = made[np.arange(len(made)), 0, rows, columns]
    made[np.arange(len(made)), 0, rows, columns] = np.where(pixels > 127, 0, 255)
    return made


def joined(split: Split, more: Batch) -> InMemory:
    batch = split.take(np.arange(len(split)))
    return InMemory(
        {name: np.concatenate([array, more.inputs[name]]) for name, array in batch.inputs.items()},
        {name: np.concatenate([array, more.targets[name]]) for name, array in batch.targets.items()},
    )


class Unnormalised(Camera):
    """Pixels of 0 to 255 as they are."""

    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"image": [Scale(by=1.0)]}


class OneClass(Camera):
    """The training split holds nothing but the digit 1."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        if name != "train":
            return split
        batch = split.take(np.arange(len(split)))
        rows = np.flatnonzero(batch.targets["label"] == 1)
        return InMemory({"image": batch.inputs["image"][rows]}, {"label": batch.targets["label"][rows]})


class Blank(Camera):
    """The training split is black."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        return changed(split, images=np.zeros((len(split), 1, 8, 8), np.uint8)) if name == "train" else split


class Unordered(Camera):
    """A split that comes in another order every time that it is read."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        batch = split.take(np.random.default_rng().permutation(len(split)))
        return InMemory(batch.inputs, batch.targets)


class Unseeded(Camera):
    """Augmentations that no seed decides, so that recorded answers belong to inputs which nobody can make again."""

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return {"image": shift(inputs["image"], np.random.default_rng(), 1)}

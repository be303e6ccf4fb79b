"""Augmentations of image batches ``(N, C, H, W)`` in numpy. The generator alone decides for each
sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attar.models.task import Array


def flip(images: Array, generator: np.random.Generator) -> Array:
    """Mirror each image left to right with probability 1/2."""
    mirrored = generator.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[..., ::-1], images)


def shift(images: Array, generator: np.random.Generator, most: int) -> Array:
    """Move each image by up to ``most`` pixels along both axes and fill in zeros."""
    count, _, height, width = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (height, width), (2, 3)
    )  # (N, C, 2*most+1, 2*most+1, H, W)
    down, right = generator.integers(0, 2 * most + 1, (2, count))
    return windows[np.arange(count), :, down, right]  # (N, C, H, W)


def erase(images: Array, generator: np.random.Generator, probability: float, largest: int) -> Array:
    """Fill a random rectangle, sides 1 to ``largest``, with one random grey (Zhong et al. 2017,
    arXiv:1708.04896)."""
    count, _, height, width = images.shape
    erased = generator.random((count, 1, 1, 1)) < probability  # (N, 1, 1, 1)
    sides = generator.integers(1, largest + 1, (2, count))
    top = (generator.random(count) * (height - sides[0] + 1)).astype(np.int64)
    left = (generator.random(count) * (width - sides[1] + 1)).astype(np.int64)
    grey = generator.integers(0, 256, count, np.uint8).astype(images.dtype)
    rows = mask_range(height, top, sides[0])[:, None, :, None]  # (N, 1, H, 1)
    columns = mask_range(width, left, sides[1])[:, None, None, :]  # (N, 1, 1, W)
    inside = rows & columns & erased  # (N, 1, H, W)
    return np.where(inside, grey[:, None, None, None], images)


def mask_range(
    size: int, start: npt.NDArray[np.int64], length: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return a mask over ``size`` positions for each sample, true in ``[start, start + length)``:
    (N, size)."""
    positions = np.arange(size)
    return (positions >= start[:, None]) & (positions < (start + length)[:, None])

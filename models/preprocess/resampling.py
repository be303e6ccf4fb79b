"""Resampling: an 8-bit image of another size, computed as Pillow 13 does
(src/libImaging/Resample.c), to the same bytes.

Each pixel that is made is a weighted mean of those around its place, along one axis and then along
the other, each rounded to 8 bits. Weights are fixed-point numbers with 22 bits behind the point, so
nothing depends on the order of sums or on the machine. Pillow 12 and older always go along the rows
first, so tall images that shrink to flat ones may differ from theirs.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Weights = npt.NDArray[np.int32]
Filter = Literal["bilinear", "bicubic"]
WEIGHT_BITS = 22
BLOCK = 2**18
"""Numbers that are summed at a time, so that they stay in the cache, and a large image needs little
memory beside its own."""
MAX_CACHED_SIZE = 2**13
"""Pixels of sides up to which weights are kept for the next image."""
REACH: dict[Filter, int] = {"bilinear": 1, "bicubic": 2}
"""How far a filter looks to each side, in pixels of the larger of both images."""
CUBIC = -0.5  # the slope of the cubic at 1; OpenCV and PyTorch without antialias have -0.75


def resize_image(image: Pixels, height: int, width: int, kind: Filter) -> Pixels:
    """``[H, W, C]`` to ``[height, width, C]``; along the columns first where many more rows than
    columns fall away."""
    lost = image.shape[0] - height
    if lost > 0 and lost > 2 * (image.shape[1] - width):
        return resize_rows(resize_columns(image, height, kind), width, kind)
    return resize_columns(resize_rows(image, width, kind), height, kind)


def resize_columns(image: Pixels, height: int, kind: Filter) -> Pixels:
    return resize_rows(image.transpose(1, 0, 2), height, kind).transpose(1, 0, 2)


def resize_rows(image: Pixels, width: int, kind: Filter) -> Pixels:
    """``[H, W, C]`` to ``[H, width, C]``."""
    if width == image.shape[1]:
        return image
    rows, _, channels = image.shape
    places, weights = (kept if max(image.shape[1], width) <= MAX_CACHED_SIZE else compute_taps)(
        image.shape[1], width, kind
    )
    made = np.empty((rows, width, channels), np.uint8)
    step = max(1, BLOCK // (width * channels))
    for top in range(0, rows, step):
        made[top : top + step] = sum_weighted(image[top : top + step], places, weights)
    return made


def sum_weighted(image: Pixels, places: Places, weights: Weights) -> Pixels:
    total = np.full(
        (len(image), places.shape[1], image.shape[2]), 1 << (WEIGHT_BITS - 1), np.int32
    )  # a half: cutting bits off rounds
    for place, weight in zip(places, weights, strict=True):
        total += image[:, place].astype(np.int32) * weight[:, None]
    made: Pixels = np.clip(total >> WEIGHT_BITS, 0, 255).astype(np.uint8)
    return made


def compute_taps(size: int, wanted: int, kind: Filter) -> tuple[Places, Weights]:
    """Which pixels each new one is made of, and their weights: both ``[taps, wanted]``."""
    scale = size / wanted
    wide = max(scale, 1.0)
    reach = REACH[kind] * wide
    centers = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + reach + 0.5).astype(np.int64), size)
    places = first + np.arange(ceil(reach) * 2 + 1)[:, None]
    shares = np.where(places < last, evaluate_filter(kind, (places - centers + 0.5) / wide), 0.0)
    shares /= shares.sum(0)
    weights = np.trunc(shares * (1 << WEIGHT_BITS) + np.copysign(0.5, shares)).astype(np.int32)
    return np.minimum(places, size - 1), weights


kept = lru_cache(maxsize=32)(compute_taps)


def evaluate_filter(kind: Filter, x: Floats) -> Floats:
    """A filter's height at ``x``: a triangle, or Keys' cubic convolution (1981)."""
    x = np.abs(x)
    if kind == "bilinear":
        return np.maximum(1 - x, 0.0)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

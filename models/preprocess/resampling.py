"""Resampling: resizes 8-bit images to the same bytes as Pillow 13 does (src/libImaging/Resample.c).

Each output pixel is a weighted mean of the input pixels around its position, first along one axis
and then along the other, each rounded to 8 bits. Weights are fixed-point numbers with 22 fractional
bits, so the result does not depend on the order of sums or on the machine. Pillow 12 and older
always resize rows first, so their result may differ for tall images that shrink to flat ones.
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
"""Numbers that are summed at a time: they stay in the cache, and a large image needs little more
memory than its own."""
MAX_CACHED_SIZE = 2**13
"""Largest side, in pixels, whose weights are cached for the next image."""
REACH: dict[Filter, int] = {"bilinear": 1, "bicubic": 2}
"""The radius of each filter, in pixels of the larger of both images."""
CUBIC = -0.5  # the slope of the cubic at 1; OpenCV and PyTorch without antialias have -0.75


def resize_image(image: Pixels, height: int, width: int, kind: Filter) -> Pixels:
    """Resize ``[H, W, C]`` to ``[height, width, C]``. Columns come first if that removes many more
    pixels."""
    lost = image.shape[0] - height
    if lost > 0 and lost > 2 * (image.shape[1] - width):
        return resize_rows(resize_columns(image, height, kind), width, kind)
    return resize_columns(resize_rows(image, width, kind), height, kind)


def resize_columns(image: Pixels, height: int, kind: Filter) -> Pixels:
    return resize_rows(image.transpose(1, 0, 2), height, kind).transpose(1, 0, 2)


def resize_rows(image: Pixels, width: int, kind: Filter) -> Pixels:
    """Resize ``[H, W, C]`` to ``[H, width, C]``."""
    if width == image.shape[1]:
        return image
    rows, _, channels = image.shape
    is_small = max(image.shape[1], width) <= MAX_CACHED_SIZE
    find_taps = recall_taps if is_small else compute_taps
    places, weights = find_taps(image.shape[1], width, kind)
    resized = np.empty((rows, width, channels), np.uint8)
    step = max(1, BLOCK // (width * channels))
    for top in range(0, rows, step):
        resized[top : top + step] = sum_weighted(image[top : top + step], places, weights)
    return resized


def sum_weighted(image: Pixels, places: Places, weights: Weights) -> Pixels:
    half = 1 << (WEIGHT_BITS - 1)  # so that dropping the fractional bits rounds
    total = np.full((len(image), places.shape[1], image.shape[2]), half, np.int32)
    for place, weight in zip(places, weights, strict=True):
        total += image[:, place].astype(np.int32) * weight[:, None]
    pixels: Pixels = np.clip(total >> WEIGHT_BITS, 0, 255).astype(np.uint8)
    return pixels


def compute_taps(size: int, wanted: int, kind: Filter) -> tuple[Places, Weights]:
    """Return the input pixels of each output pixel, and their weights: both ``[taps, wanted]``."""
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


recall_taps = lru_cache(maxsize=32)(compute_taps)


def evaluate_filter(kind: Filter, x: Floats) -> Floats:
    """Return the filter's value at ``x``: a triangle, or the cubic convolution of Keys (1981)."""
    x = np.abs(x)
    if kind == "bilinear":
        return np.maximum(1 - x, 0.0)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))

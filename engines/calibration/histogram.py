"""How often values occur, in one pass and constant memory, in whatever order they come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from attar.models.task import Array
from attar.pipeline.core.errors import StageError

BINS = 2048
FINEST = -100
"""The finest bins are 2^-100 wide, so that one over the width is a float32."""

CHUNK = 1 << 15  # values at a time: what is made of them stays in the cache

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Range = tuple[float, float]


class Histogram:
    """Counts of values in ``BINS`` bins of one width, and their exact extremes.

    The width is the smallest power of two for which 0 and every value find room, and each edge is a
    multiple of it. When a value falls outside, neighbours are merged in pairs: an edge of the wider
    bins is an edge of the narrower ones too, so the counts are those that the wider bins would have
    had from the start. Hence they depend on the values alone, not on their order.
    """

    def __init__(
        self, low: float = math.inf, high: float = -math.inf, counts: Counts | None = None
    ) -> None:
        """``counts`` [BINS] are those of the grid for these extremes. Without them it is empty."""
        self.low, self.high = low, high
        self.counts = np.zeros(BINS, np.int64) if counts is None else counts
        self.exponent, self.first = choose_grid(low, high)

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Floats:
        """[BINS + 1], from the lowest; bin i holds ``edges[i] <= value < edges[i + 1]``."""
        return np.arange(self.first, self.first + BINS + 1, dtype=np.float64) * self.width

    def add(self, values: Array) -> None:
        """Count finite floating-point values of any shape, at least one."""
        self.make_room(float(values.min()), float(values.max()))
        scale, flat = math.ldexp(1.0, -self.exponent), values.ravel()
        dtype = np.promote_types(values.dtype, np.float32)
        for start in range(0, len(flat), CHUNK):
            exact = np.asarray(flat[start : start + CHUNK], dtype)
            scaled = exact * scale  # by a power of two: only what becomes too small is rounded
            if scale < 1:
                scaled[(scaled == 0) & (exact < 0)] = -0.5  # it is below 0, however near
            places = np.floor(scaled, out=scaled).astype(np.intp) - self.first
            self.counts += np.bincount(places, minlength=BINS)

    def clip_range(self, low: float, high: float) -> Range:
        """Return this range without what lies beyond the extremes."""
        return max(low, self.low), min(high, self.high)

    def make_room(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent, first = choose_grid(self.low, self.high)
        if (exponent, first) == (self.exponent, self.first):
            return
        filled = np.flatnonzero(self.counts)
        merged = (filled + self.first) >> min(exponent - self.exponent, 62)
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, merged - first, self.counts[filled])
        self.counts, self.exponent, self.first = counts, exponent, first


def choose_grid(low: float, high: float) -> tuple[int, int]:
    """Return the exponent of the bins' width, and the multiple of it that the first edge is.

    The bins have room for 0 and for all between the extremes. They are the finest where nothing was
    seen, which infinite extremes mean.
    """
    low, high = (min(low, 0.0), max(high, 0.0)) if low <= high else (0.0, 0.0)
    exponent = max(math.frexp((high - low) / BINS)[1] - 2, FINEST) if low < high else FINEST
    while find_bin(high, exponent) - find_bin(low, exponent) >= BINS:
        exponent += 1
    return exponent, find_bin(low, exponent)


def find_bin(value: float, exponent: int) -> int:
    return math.floor(math.ldexp(value, -exponent))


def save_histograms(file: Path, histograms: Mapping[str, Histogram], samples: int) -> None:
    """Write histograms to a file, which appears whole or not at all.

    It has ``counts`` [tensors, BINS] and ``extremes`` [tensors, 2], names and ``samples`` in the
    header.
    """
    names = sorted(histograms)
    counts = [histograms[name].counts for name in names]
    extremes = [(histograms[name].low, histograms[name].high) for name in names]
    tensors = {
        "counts": np.array(counts, np.int64).reshape(-1, BINS),
        "extremes": np.array(extremes).reshape(-1, 2),
    }
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, {"state": json.dumps({"tensors": names, "samples": samples})})
    partial.replace(file)


def load_histograms(file: Path) -> tuple[dict[str, Histogram], int]:
    """Return the histogram of each tensor, and the number of samples.

    Raises StageError for a damaged file.
    """
    try:
        with safe_open(file, framework="numpy") as content:
            state = json.loads(content.metadata()["state"])
            counts, extremes = content.get_tensor("counts"), content.get_tensor("extremes")
        names, samples = list(state["tensors"]), int(state["samples"])
        check_histograms(counts, extremes, len(names))
        if samples < 0:
            raise ValueError(f"{samples} samples")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise make_damage_error(file, str(error)) from error
    rows = zip(names, extremes.tolist(), counts, strict=True)
    return {name: Histogram(low, high, row.copy()) for name, (low, high), row in rows}, samples


def check_histograms(counts: Counts, extremes: Floats, tensors: int) -> None:
    """Raises ValueError unless these are the counts and finite extremes of so many tensors."""
    if counts.dtype != np.int64 or counts.shape != (tensors, BINS):
        raise ValueError(f"{counts.dtype} counts {counts.shape} of {tensors} tensors")
    if extremes.shape != (tensors, 2) or not np.isfinite(extremes).all():
        raise ValueError(f"extremes {extremes.shape} of {tensors} tensors, or not finite")
    if not ((counts >= 0).all() and counts.any(-1).all()):
        raise ValueError("a tensor without values, or with a negative count")


def make_damage_error(file: Path, why: str) -> StageError:
    return StageError(
        f"the histograms in {file} are damaged ({why}); delete the file and calibrate again"
    )

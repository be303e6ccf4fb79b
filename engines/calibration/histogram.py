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
        for start in range(0, len(flat), CHUNK):
            exact = np.asarray(
                flat[start : start + CHUNK], np.promote_types(values.dtype, np.float32)
            )
            scaled = (
                exact * scale
            )  # by a power of two, so nothing is rounded but what becomes too small for its type
            if scale < 1:
                scaled[(scaled == 0) & (exact < 0)] = -0.5  # it is below 0, however near
            places = np.floor(scaled, out=scaled).astype(np.intp)
            places -= self.first
            self.counts += np.bincount(places, minlength=BINS)

    def clip_range(self, low: float, high: float) -> Range:
        """Return this range without what lies beyond the extremes."""
        return max(low, self.low), min(high, self.high)

    def make_room(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        exponent, first = choose_grid(self.low, self.high)
        if (exponent, first) != (self.exponent, self.first):
            filled = np.flatnonzero(self.counts)
            counts = np.zeros(BINS, np.int64)
            np.add.at(
                counts,
                ((filled + self.first) >> min(exponent - self.exponent, 62)) - first,
                self.counts[filled],
            )
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
    ordered = sorted(histograms)
    tensors = {
        "counts": np.array([histograms[name].counts for name in ordered], np.int64).reshape(
            -1, BINS
        ),
        "extremes": np.array(
            [(histograms[name].low, histograms[name].high) for name in ordered]
        ).reshape(-1, 2),
    }
    partial = file.with_suffix(".partial")
    save_file(tensors, partial, {"state": json.dumps({"tensors": ordered, "samples": samples})})
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
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise make_damage_error(file, str(error)) from error
    sound = (
        (counts >= 0).all()
        and counts.any(-1).all()
        and np.isfinite(extremes).all()
        and samples >= 0
    )
    if (
        not sound
        or counts.shape != (len(names), BINS)
        or counts.dtype != np.int64
        or extremes.shape != (len(names), 2)
    ):
        raise make_damage_error(
            file,
            f"it names {len(names)} tensors, with {counts.dtype} counts {counts.shape} and "
            f"extremes {extremes.shape}",
        )
    rows = zip(names, extremes.tolist(), counts, strict=True)
    return {name: Histogram(low, high, row.copy()) for name, (low, high), row in rows}, samples


def make_damage_error(file: Path, why: str) -> StageError:
    return StageError(
        f"the histograms in {file} are damaged ({why}); delete the file and calibrate again"
    )

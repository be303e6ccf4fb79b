"""Steps on numbers."""

from __future__ import annotations

from typing import Literal

import numpy as np

from attar.models.preprocess.step import Array, Step


class Scale(Step):
    """``x * by``, as float32."""

    step: Literal["scale"] = "scale"
    by: float

    def __call__(self, x: Array) -> Array:
        return np.asarray(x, np.float32) * np.float32(self.by)


class Normalize(Step):
    """``(x - mean) / std`` as float32, one number for each channel (axis 1)."""

    step: Literal["normalize"] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        shape = (1, -1) + (1,) * (x.ndim - 2)  # (1, channels, 1, ...)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return (np.asarray(x, np.float32) - mean) / std

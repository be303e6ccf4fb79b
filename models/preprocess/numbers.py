"""Steps on numbers."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from attar.models.preprocess.step import Array, Step
from attar.models.tensors import describe_array


class Scale(Step):
    """Return ``x * by`` as float32."""

    moves: ClassVar[bool] = True
    step: Literal["scale"] = "scale"
    by: float

    def __call__(self, x: Array) -> Array:
        return as_float(self, x) * np.float32(self.by)


class Normalize(Step):
    """Return ``(x - mean) / std`` as float32, with one number for each channel (axis 1)."""

    moves: ClassVar[bool] = True
    step: Literal["normalize"] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        raw = as_float(self, x)
        shape = (1, -1) + (1,) * (x.ndim - 2)  # (1, channels, 1, ...)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        if x.ndim < 2 or not {mean.size, std.size} <= {1, x.shape[1]}:
            numbers = f"{mean.size} means and {std.size} deviations"
            raise self.refuse(
                describe_array(x),
                f"it has {numbers}, one for each channel in axis 1; put channels_first before it",
            )
        return (raw - mean) / std


def as_float(step: Step, x: Array) -> npt.NDArray[np.float32]:
    """Return numbers as float32. Raises AttarError for an array that holds no numbers."""
    if x.dtype.kind not in "biuf":
        raise step.refuse(
            describe_array(x),
            "it reads one array of numbers; decode images, and make their sizes equal, before it",
        )
    return np.asarray(x, np.float32)

"""Preprocessing as data: a closed set of steps, executed by this one module for training and for serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Array = npt.NDArray[np.generic]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Step):
    """``x * by``, as float32."""

    step: Literal["scale"] = "scale"
    by: float

    def __call__(self, x: Array) -> Array:
        return np.asarray(x, np.float32) * np.float32(self.by)


class Normalize(_Step):
    """``(x - mean) / std`` as float32, one number for each channel (axis 1)."""

    step: Literal["normalize"] = "normalize"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        shape = (1, -1) + (1,) * (x.ndim - 2)  # (1, channels, 1, ...)
        mean, std = (np.asarray(v, np.float32).reshape(shape) for v in (self.mean, self.std))
        return (np.asarray(x, np.float32) - mean) / std


Step = Annotated[Scale | Normalize, Field(discriminator="step")]
"""A step as a bundle's manifest holds it: pydantic writes it to JSON and reads it back, and refuses any other."""


def apply(steps: Mapping[str, Sequence[Step]], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Raw inputs to the network's inputs; an input without steps passes unchanged."""
    made = dict(inputs)
    for name, todo in steps.items():
        for step in todo:
            made[name] = step(made[name])
    return made

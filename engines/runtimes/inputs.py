"""Inputs: what is wrong with those that a runtime refused, told in the same words whichever it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import did_you_mean


@dataclass(frozen=True)
class Wanted:
    """An input of a graph: a numpy dtype and its axes, a number where fixed and a name where dynamic."""

    name: str
    dtype: str
    axes: Sequence[int | str]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.axes))}]"

    def fits(self, array: Array) -> bool:
        if array.dtype.name != self.dtype or not array.dtype.isnative or array.ndim != len(self.axes):
            return False
        return all(not isinstance(axis, int) or axis == size for axis, size in zip(self.axes, array.shape, strict=True))


def refusal(wanted: Sequence[Wanted], got: Arrays) -> str | None:
    """What is wrong with the inputs, for a reader; None if nothing is."""
    for want in wanted:
        if want.name not in got:
            return f"the graph wants an input {want.name!r} ({want}) and got {', '.join(got) or 'none'}"
        array = np.asarray(got[want.name])
        if not want.fits(array):
            order = "" if array.dtype.isnative else " in the other byte order"
            return f"input {want.name!r} must be {want}, got {array.dtype.name} {list(array.shape)}{order}"
    known = [want.name for want in wanted]
    unknown = sorted(got.keys() - set(known))
    return f"the graph has no input {unknown[0]!r}: {did_you_mean(unknown[0], known)}" if unknown else None


def swapped(inputs: Arrays) -> bool:
    """Whether an array is in the other byte order, which no runtime looks at: it would answer for other numbers."""
    return any(not np.asarray(array).dtype.isnative for array in inputs.values())

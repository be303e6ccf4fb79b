"""Lesson: what one step of training reads. It is read on the host and sent to the device before the
network runs, so that no step waits for the one before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attar.engines.runtimes.torch import send_array
from attar.models.task import Array

T = TypeVar("T")
Part = Literal[
    "labels",
    "label places",
    "partners",
    "shares",
    "answers",
    "answer labels",
    "answer places",
    "top values",
    "top tokens",
    "rest",
    "padding",
    "features",
]
"""What a loss reads of an output, of an input (``padding``) or of a layer of the teacher
(``features``). Places ``[axes, R]`` are indices of
the positions that count, if not all do."""


@dataclass(frozen=True)
class Lesson(Generic[T]):
    """What one step reads, as arrays or as tensors."""

    inputs: Mapping[str, T]
    """What the network reads."""
    parts: Mapping[tuple[Part, str], T]
    """What the loss reads, by the name of the output, input or layer that it belongs to."""
    labelled: int
    """The number of samples with labels, which come first."""
    label_weight: float = 1.0
    """What means over labels weigh, see ``WholeStep.weigh``."""
    answer_weight: float = 1.0
    """What means over the tokens of the teacher's answers weigh."""

    def find(self, part: Part, name: str) -> T | None:
        return self.parts.get((part, name))


def send_lesson(lesson: Lesson[Array], device: torch.device) -> Lesson[Tensor]:
    """Start to copy all arrays to the device."""
    return Lesson(
        {name: send_array(array, device) for name, array in lesson.inputs.items()},
        {key: send_array(array, device) for key, array in lesson.parts.items()},
        lesson.labelled,
        lesson.label_weight,
        lesson.answer_weight,
    )


def list_places(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the indices of what is true ``[axes, R]``, in its order.

    A mask on a GPU would be counted there, and the host would wait for the number.
    """
    return np.stack(np.nonzero(mask))


def select_places(values: Tensor, places: Tensor | None) -> Tensor:
    """Return the values at the places, ``(R, ...)``; all if there are no places."""
    return values if places is None else values[tuple(places)]

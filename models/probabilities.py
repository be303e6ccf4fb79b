"""Probabilities: outputs whose last axis is a distribution over classes. Their logarithms are logits, and are treated as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Kind
from attar.pipeline.errors import StageError

TOLERANCE = 1e-2
"""How far from 1 the sum of a row of probabilities may be: a thousand of them in half precision miss it by less."""
FEWEST_ROWS = 4
"""Fewer rows may look like probabilities by chance."""


def to_logits(kind: Kind, answer: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the logarithms of probabilities, at least that of their dtype's smallest normal number; else ``answer``."""
    if kind != "probabilities":
        return answer
    made: npt.NDArray[Any] = np.log(clip_probabilities(kind, answer))
    return made


def from_logits(kind: Kind, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what ``to_logits`` was made of."""
    if kind != "probabilities":
        return logits
    made: npt.NDArray[Any] = np.exp(logits)
    return made


def clip_probabilities(kind: Kind, answer: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return probabilities that have a logarithm, at least the smallest normal number of their dtype (float32: 1.2e-38).

    Below it a softmax gives 0, so the logarithm of what is clipped goes on where the others end.
    """
    if kind != "probabilities":
        return answer
    floating = answer if np.issubdtype(answer.dtype, np.floating) else np.asarray(answer, np.float32)
    made: npt.NDArray[Any] = np.maximum(floating, max(np.finfo(floating.dtype).tiny, np.finfo(np.float32).tiny))
    return made


def are_probabilities(answer: Array) -> bool:
    """Whether every row of the last axis is a distribution: nothing below 0, and a sum of 1."""
    rows = np.asarray(answer, np.float64)
    return bool(rows.ndim > 1 and rows.size and (rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= TOLERANCE).all())


def check_kind(who: str, name: str, kind: Kind, answer: Array) -> None:
    """Raise StageError for probabilities where logits are declared, and for what is none where probabilities are.

    ``who`` answered, as a message names it. A few rows of logits may sum to 1 by chance and are let through.
    """
    if kind == "logits" and answer.size >= FEWEST_ROWS * answer.shape[-1] and are_probabilities(answer):
        raise StageError(
            f"{who} {name!r} are declared as logits, but are probabilities: in each of {answer.size // answer.shape[-1]} rows "
            "nothing is below 0 and the sum is 1. The graph ends in a softmax: declare "
            "attar.Output(..., kind='probabilities'), or end the graph before it"
        )
    if kind == "probabilities" and answer.size and not are_probabilities(answer):
        sums = np.asarray(answer, np.float64).sum(-1)
        raise StageError(
            f"{who} {name!r} are declared as probabilities, but the sums of their rows are {sums.min():.4g} to {sums.max():.4g} "
            f"and the least of them is {float(np.min(answer)):.4g}; each row must sum to 1 and hold nothing below 0. Declare "
            "kind='logits' for what no softmax was taken of, kind='values' for other numbers"
        )

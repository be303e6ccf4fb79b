"""Probabilities: outputs whose last axis is a distribution over classes. They are compared and
stored as logits, which are their logarithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Kind
from attar.pipeline.core.errors import StageError

TOLERANCE = 1e-2
"""Largest distance from 1 of a row's sum: a thousand probabilities in half precision stay below
it."""
LOOSE_TOLERANCE = 0.25
"""The same for declared logits: the sum of a quantized softmax may miss 1 by that much."""
NEARLY_ALL = 0.99
"""Share of the rows that must look like probabilities. Rows of zeros, as padding gives, do not
count."""
FEWEST_ROWS = 4
"""Fewer rows than this may look like probabilities by chance."""
ENOUGH_ROWS = 128
"""After this many rows, declared logits are refused before all answers are computed."""
SURE = 0.2
"""Declared multilabel logits are refused if all lie between 0 and 1, and some this near to each."""
LEAST_STEP = 1 / 1024
"""The smallest step of a quantized output that can be distinguished from rounding."""
HALF_FLOOR = float(np.finfo(np.float16).smallest_subnormal)
FLOOR = float(np.finfo(np.float32).tiny)
Numbers = npt.NDArray[np.float64]


def to_logits(kind: Kind, answer: npt.NDArray[Any], floor: float = 0.0) -> npt.NDArray[Any]:
    """Return the logarithms of probabilities, clipped at ``floor`` and at the smallest number of
    their dtype, in float32 or wider. Other kinds are returned unchanged."""
    if kind != "probabilities":
        return answer
    logits: npt.NDArray[Any] = np.log(clip_probabilities(kind, answer, floor))
    return logits


def from_logits(kind: Kind, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the inverse of `to_logits`."""
    if kind != "probabilities":
        return logits
    probabilities: npt.NDArray[Any] = np.exp(logits)
    return probabilities


def clip_probabilities(
    kind: Kind, answer: npt.NDArray[Any], floor: float = 0.0
) -> npt.NDArray[Any]:
    """Return probabilities that have a logarithm: at least 6e-8 (float16) or 1.2e-38 (other
    dtypes).

    A softmax gives 0 below these numbers, so the logarithm of a clipped number continues where the
    others end. float16 becomes float32, whose logarithms are finer.
    """
    if kind != "probabilities":
        return answer
    is_narrow = answer.dtype == np.float16 or not np.issubdtype(answer.dtype, np.floating)
    wide = np.asarray(answer, np.float32) if is_narrow else answer
    clipped: npt.NDArray[Any] = np.maximum(wide, wide.dtype.type(max(floor, find_floor(answer))))
    return clipped


def find_floor(answer: npt.NDArray[Any]) -> float:
    """Return the smallest number that these probabilities can have had.

    Clipped float16 is recognized by its smallest number, even after it was widened and stored.
    """
    least = float(np.min(answer, initial=np.inf))
    was_half = answer.dtype == np.float16 or np.isclose(least, HALF_FLOOR, rtol=1e-3, atol=0)
    return HALF_FLOOR if was_half else FLOOR


def find_common_floor(kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """Return the number at which both sides are clipped before they are compared: the floor of the
    coarser side."""
    return max(find_floor(expected), find_floor(got)) if kind == "probabilities" else 0.0


def are_probabilities(answer: Array) -> bool:
    """Whether every row of the last axis is a distribution: nothing below 0, and a sum of 1."""
    rows = np.asarray(answer, np.float64)
    return bool(
        rows.ndim > 1
        and rows.size
        and (rows >= 0).all()
        and (np.abs(rows.sum(-1) - 1) <= TOLERANCE).all()
    )


def are_quantized_probabilities(answer: Array) -> bool:
    """Whether these are outputs of a softmax rounded to steps, as a quantized graph has them: each
    may be off by half a step."""
    rows = np.asarray(answer, np.float64)
    step = find_step(rows)
    if step is None or rows.min() < 0 or rows.max() > 1 + step:
        return False
    return bool((np.abs(rows.sum(-1) - 1) <= TOLERANCE + step / 2 * rows.shape[-1]).all())


def find_step(numbers: Numbers) -> float | None:
    """Return the step of which all numbers are multiples, or None if there is none as coarse as a
    step of 8 bits."""
    steps = np.diff(np.unique(numbers.round(6)))
    step = float(steps.min(initial=1))
    is_lattice = step >= LEAST_STEP and np.allclose(
        numbers / step, (numbers / step).round(), atol=0.05
    )
    return step if is_lattice else None


class KindCheck:
    """Checks answers, batch by batch, against the declared kind of their output.

    ``who`` names the source of the answers in a message.
    """

    def __init__(self, who: str, name: str, kind: Kind) -> None:
        self.who, self.name, self.kind = who, name, kind
        self.rows = self.likely_rows = 0
        self.are_in_range = True
        self.least, self.largest = np.inf, -np.inf

    def add(self, answer: Array) -> None:
        """Raises StageError if declared probabilities are none, or if enough declared logits are
        probabilities."""
        if not answer.size:
            return
        if self.kind == "probabilities" and not (
            are_probabilities(answer) or are_quantized_probabilities(answer)
        ):
            self.refuse_numbers(np.asarray(answer, np.float64))
        if self.kind == "multilabel":
            logits = np.asarray(answer, np.float64)
            self.rows += len(logits)
            self.least = min(self.least, float(logits.min()))
            self.largest = max(self.largest, float(logits.max()))
        if self.kind == "logits":
            self.count(np.asarray(answer, np.float64).reshape(-1, answer.shape[-1]))
            if self.rows >= ENOUGH_ROWS:
                self.finish()

    def count(self, rows: Numbers) -> None:
        used = rows[(rows != 0).any(-1)]
        self.rows += len(used)
        self.likely_rows += int((np.abs(used.sum(-1) - 1) <= LOOSE_TOLERANCE).sum())
        self.are_in_range &= bool(((used >= 0) & (used <= 1 + TOLERANCE)).all())

    def finish(self) -> None:
        """Raises StageError if nearly all rows of declared logits look like probabilities, or all
        multilabel logits like sigmoids; a few may by chance."""
        is_sigmoid = 0 <= self.least < SURE and 1 - SURE < self.largest <= 1
        if self.kind == "multilabel" and self.rows >= ENOUGH_ROWS and is_sigmoid:
            self.refuse_sigmoid(f"all lie between {self.least:.4g} and {self.largest:.4g}")
        if (
            self.rows >= FEWEST_ROWS
            and self.are_in_range
            and self.likely_rows >= NEARLY_ALL * self.rows
        ):
            self.refuse_softmax(
                f"in {self.likely_rows} of {self.rows} rows nothing is below 0 and the sum is "
                "about 1"
            )

    def refuse_softmax(self, reason: str) -> None:
        raise StageError(
            f"{self.who} {self.name!r} are declared as logits, but are probabilities: {reason}. "
            "The graph ends in a softmax: declare attar.Output(..., kind='probabilities'), or end "
            "the graph before it"
        )

    def refuse_sigmoid(self, reason: str) -> None:
        raise StageError(
            f"{self.who} {self.name!r} are declared as multilabel, which are logits, but are "
            f"probabilities: {reason}. The network ends in a sigmoid: end it before that"
        )

    def refuse_numbers(self, rows: Numbers) -> None:
        sums = rows.sum(-1)
        raise StageError(
            f"{self.who} {self.name!r} are declared as probabilities, but the sums of their rows "
            f"are {sums.min():.4g} to {sums.max():.4g} and the least of them is {rows.min():.4g}; "
            "each row must sum to 1 and hold nothing below 0. Declare kind='logits' for what no "
            "softmax was taken of, kind='values' for other numbers"
        )

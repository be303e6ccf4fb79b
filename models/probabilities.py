"""Probabilities: outputs whose last axis is a distribution over classes. Their logarithms are
logits, and are treated as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array, Kind
from attar.pipeline.core.errors import StageError

TOLERANCE = 1e-2
"""How far from 1 the sum of a row of probabilities may be: a thousand of them in half precision
miss it by less."""
LOOSE_TOLERANCE = 0.25
"""The same where logits are declared: a softmax whose outputs are quantized misses 1 by that
much."""
NEARLY_ALL = 0.99
"""Share of the rows that are not all 0 (as those of padding are) which must look like
probabilities."""
FEWEST_ROWS = 4
"""Fewer rows may look like probabilities by chance."""
ENOUGH_ROWS = 128
"""After so many rows logits are refused at once, before all are answered."""
LEAST_STEP = 1 / 1024
"""The least step of a quantized output that is told from rounding."""
HALF_FLOOR = float(np.finfo(np.float16).smallest_subnormal)
FLOOR = float(np.finfo(np.float32).tiny)
Numbers = npt.NDArray[np.float64]


def to_logits(kind: Kind, answer: npt.NDArray[Any], floor: float = 0.0) -> npt.NDArray[Any]:
    """Return the logarithms of probabilities, at least float32, clipped at ``floor`` and their
    dtype's; else ``answer``."""
    if kind != "probabilities":
        return answer
    made: npt.NDArray[Any] = np.log(clip_probabilities(kind, answer, floor))
    return made


def from_logits(kind: Kind, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what ``to_logits`` was made of."""
    if kind != "probabilities":
        return logits
    made: npt.NDArray[Any] = np.exp(logits)
    return made


def clip_probabilities(
    kind: Kind, answer: npt.NDArray[Any], floor: float = 0.0
) -> npt.NDArray[Any]:
    """Return probabilities that have a logarithm: the smallest number of float16 at least (6e-8),
    else that of float32.

    Below it a softmax gives 0, so the logarithm of what is clipped goes on where the others end. Of
    float32 and float64 the smallest normal number is meant (1.2e-38). float16 becomes float32,
    whose logarithms are finer.
    """
    if kind != "probabilities":
        return answer
    is_narrow = answer.dtype == np.float16 or not np.issubdtype(answer.dtype, np.floating)
    wide = np.asarray(answer, np.float32) if is_narrow else answer
    made: npt.NDArray[Any] = np.maximum(wide, wide.dtype.type(max(floor, find_floor(answer))))
    return made


def find_floor(answer: npt.NDArray[Any]) -> float:
    """Return the least number that these probabilities could have had.

    Those of float16 were clipped at its least one, which tells them after they were widened and
    stored.
    """
    least = float(np.min(answer, initial=np.inf))
    return (
        HALF_FLOOR
        if answer.dtype == np.float16 or np.isclose(least, HALF_FLOOR, rtol=1e-3, atol=0)
        else FLOOR
    )


def find_common_floor(kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """Return at what both sides are clipped to be compared: the coarser one tells nothing below its
    own floor."""
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
    """Whether these are a softmax's outputs rounded to steps, as a quantized graph has them: each
    may be off by half a step."""
    rows = np.asarray(answer, np.float64)
    step = find_step(rows)
    if step is None or rows.min() < 0 or rows.max() > 1 + step:
        return False
    return bool((np.abs(rows.sum(-1) - 1) <= TOLERANCE + step / 2 * rows.shape[-1]).all())


def find_step(numbers: Numbers) -> float | None:
    """Return the step that all these are multiples of; None where there is none as coarse as those
    of 8 bits."""
    steps = np.diff(np.unique(numbers.round(6)))
    step = float(steps.min(initial=1))
    is_lattice = step >= LEAST_STEP and np.allclose(
        numbers / step, (numbers / step).round(), atol=0.05
    )
    return step if is_lattice else None


class KindCheck:
    """Checks answers, some rows at a time, against the kind that their output is declared as.

    ``who`` answered, as a message names it.
    """

    def __init__(self, who: str, name: str, kind: Kind) -> None:
        self.who, self.name, self.kind = who, name, kind
        self.rows = self.likely_rows = 0
        self.are_in_range = True

    def add(self, answer: Array) -> None:
        """Raise StageError for what is none where probabilities are declared, and for many
        probabilities where logits are."""
        if not answer.size:
            return
        if self.kind == "probabilities" and not (
            are_probabilities(answer) or are_quantized_probabilities(answer)
        ):
            self.refuse_numbers(np.asarray(answer, np.float64))
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
        """Raise StageError where nearly all rows of declared logits look like probabilities; a few
        may by chance."""
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

    def refuse_numbers(self, rows: Numbers) -> None:
        sums = rows.sum(-1)
        raise StageError(
            f"{self.who} {self.name!r} are declared as probabilities, but the sums of their rows "
            f"are {sums.min():.4g} to {sums.max():.4g} and the least of them is {rows.min():.4g}; "
            "each row must sum to 1 and hold nothing below 0. Declare kind='logits' for what no "
            "softmax was taken of, kind='values' for other numbers"
        )

"""The agreement of two models' outputs over the last samples, by the definitions of
``proof.estimates.metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.probabilities import find_common_floor, to_logits
from attar.models.task import CLASSIFYING, Kind
from attar.proof.estimates.metrics import STATISTICS, OfValues, compare_outputs, sum_logits_metrics
from attar.proof.estimates.sums import Numbers, count_values

WHOLE_KINDS: frozenset[Kind] = frozenset({"embedding", "multilabel"})
"""The kinds whose numbers are no sums of what one request tells: they relate all samples."""
SHOWN = ("correlation", "cosine", "agreement", "kdl")


class Window:
    """Rolling numbers of one output.

    One thread adds samples; others may read, as arrays are replaced and never changed.
    """

    def __init__(self, kind: Kind, samples: int) -> None:
        self.kind, self.samples = kind, samples
        self.count = 0
        """Number of samples."""
        self._rows: Mapping[str, npt.NDArray[Any]] = {}
        self._values: OfValues | None = None

    @property
    def deciding(self) -> str:
        """Return the number that says whether both models are close enough."""
        return "agreement" if self.kind == "tokens" else "correlation"

    def add_samples(self, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> None:
        """Add one output of a request, ``[N, ...]``, finite; the sizes of later axes may vary."""
        fresh = self._compute_columns(expected, got)
        kept = {
            name: np.concatenate([self._rows[name], rows]) if self._rows else rows
            for name, rows in fresh.items()
        }
        self._rows = {name: rows[-self.samples :] for name, rows in kept.items()}
        self.count = min(self.samples, self.count + len(expected))

    def compute_numbers(self) -> dict[str, float]:
        """Return those of ``correlation``, ``cosine``, ``agreement`` and ``kdl`` that apply; empty
        before the second sample."""
        if self.count < 2:
            return {}
        rows = self._rows
        if self.kind in WHOLE_KINDS:
            told = compare_outputs(self.kind, rows["expected"], rows["got"]).numbers
            return {name: number for name in SHOWN if (number := told[name]) is not None}
        return {name: float(STATISTICS[name](rows[name].sum(0))) for name in SHOWN if name in rows}

    def _compute_columns(
        self, expected: npt.NDArray[Any], got: npt.NDArray[Any]
    ) -> Mapping[str, npt.NDArray[Any]]:
        """Return the values that are kept of each sample: sums, or the outputs themselves."""
        if self.kind in WHOLE_KINDS:
            return {"expected": expected, "got": got}
        if self.kind == "tokens":
            return {"agreement": count_values((expected == got).all(1).astype(np.float64))}
        p, q = np.asarray(expected, np.float64), np.asarray(got, np.float64)
        if self.kind in CLASSIFYING:
            floor = find_common_floor(self.kind, expected, got)
            p, q = (to_logits(self.kind, side, floor) for side in (p, q))
            made: dict[str, Numbers] = sum_logits_metrics(p, q)
        else:
            # Pearson's r does not depend on what is subtracted: the first request's means will do.
            self._values = self._values or OfValues(p, q)
            made = self._values(p, q)
        return {name: rows for name, rows in made.items() if name in SHOWN}

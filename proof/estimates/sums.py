"""Sums over samples, of which every metric is a function, and the arithmetic that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
ROUNDING = 1e-12
"""Of the largest magnitude: what float64 leaves of a constant after its mean is subtracted."""


@dataclass(frozen=True)
class Sums:
    """A statistic that is a function of sums over independent rows, such as a mean."""

    columns: Numbers
    """[N, k]: what is summed; of pairs of samples [groups, k], a row for each of the disjoint
    groups."""
    statistic: Callable[[Numbers], Numbers]
    """Sums [..., k] to values [...], symmetric in the samples."""

    @property
    def value(self) -> float:
        return float(self.statistic(self.columns.sum(0)))


@dataclass(frozen=True)
class ShareSums(Sums):
    """A share of rows, of which a sample has several, such as tokens. Columns: hits, rows."""

    @property
    def effective_samples(self) -> float:
        """How many samples of equal size tell as much (Kish 1965)."""
        rows = self.columns[:, 1]
        return float(rows.sum() ** 2 / (rows**2).sum())

    def add_miss(self) -> Sums:
        """Add a sample without a hit. It has as many rows as the sample of a row has on average."""
        miss = [0, self.columns[:, 1].sum() / self.effective_samples]
        return Sums(np.vstack([self.columns, miss]), self.statistic)


def sum_products(p: Numbers, q: Numbers, *, known: Mask | None = None) -> Numbers:
    """What ``correlate_sums`` reads, of the entries of each sample: ``[N, ...] -> [N, 6]``.

    Both are 0 in the rows where ``known``, without the last axis, is false; these do not count.
    """
    sizes = np.full(len(p), float(p[0].size))
    if known is not None:
        sizes = known.reshape(len(p), -1).sum(1) * float(p.shape[-1])
    p, q = p.reshape(len(p), -1), q.reshape(len(q), -1)
    pairs = [np.einsum("ij,ij->i", one, other) for one, other in ((p, p), (q, q), (p, q))]
    made: Numbers = np.stack([sizes, p.sum(1), q.sum(1), *pairs], 1)
    return made


def correlate_sums(sums: Numbers) -> Numbers:
    """Return Pearson's r over all entries, in [-1, 1], ``[..., 6] -> [...]``.

    It is 0 if a side is constant.
    """
    n, p, q, pp, qq, pq = np.moveaxis(sums, -1, 0)
    variances = np.maximum(0, n * pp - p * p) * np.maximum(0, n * qq - q * q)
    r = np.divide(n * pq - p * q, np.sqrt(variances), out=np.zeros_like(pq), where=variances > 0)
    made: Numbers = np.clip(r, -1, 1)
    return made


def count_rows(rows: npt.NDArray[Any], known: Mask | None = None) -> Numbers:
    """What ``compute_mean`` reads, ``[N, ...] -> [N, 2]``: the mean over the rows of each sample,
    or the sum over its known ones, and their number."""
    values = np.asarray(rows, np.float64).reshape(len(rows), -1)
    if known is None:
        return count_values(values.mean(1))
    own = known.reshape(len(rows), -1)
    return np.stack([np.where(own, values, 0).sum(1), own.sum(1)], 1)


def count_values(values: Numbers) -> Numbers:
    """What ``compute_mean`` reads, ``[N] -> [N, 2]``."""
    return np.stack([values, np.ones_like(values)], 1)


def compute_mean(sums: Numbers) -> Numbers:
    """The mean, ``[..., 2] -> [...]``."""
    made: Numbers = sums[..., 0] / sums[..., 1]
    return made


def subtract_mean(x: Numbers, axis: int) -> Numbers:
    """``x`` minus its mean along ``axis``, exactly 0 where only rounding is left of it."""
    return clear_rounding(x - x.mean(axis, keepdims=True), np.abs(x).max(axis, keepdims=True))


def clear_rounding(left: Numbers, largest: Numbers | float) -> Numbers:
    """Exactly 0 where no more than rounding is left of numbers as large as ``largest``."""
    left[np.abs(left) <= ROUNDING * largest] = 0
    return left


def softmax(logits: Numbers) -> tuple[Numbers, Numbers]:
    """Probabilities and their logarithms."""
    shifted = logits - logits.max(-1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(-1, keepdims=True)
    return exponentials / total, shifted - np.log(total)


def log_sigmoid(logits: Numbers) -> Numbers:
    """The logarithms of sigmoids."""
    made: Numbers = -np.logaddexp(0, -logits)
    return made

"""Metrics: how near the answers of one model are to those of another. Pure numpy, in float64, never NaN.

``expected`` and ``got`` hold one output of both models, ``[N, ...]``, finite. Logits are taken over the last axis and are only
defined up to a constant, so they are compared after subtracting each row's mean.

A side that is constant has no correlation with anything (Pearson's r is 0/0). Here it is **0**, even against itself: a constant
answer proves nothing, so no promise of a correlation is kept by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Kind = Literal["logits", "values"]
Metrics = dict[str, float | None]
"""``correlation`` ``correlation_per_sample`` ``correlation_probabilities`` ``kdl`` ``agreement`` ``largest_difference``."""

ROUNDING = 1e-12  # of the largest magnitude: what float64 leaves of a constant after its mean is subtracted
WORST: dict[str, Callable[[Sequence[float]], float]] = {
    "correlation": min,
    "correlation_per_sample": min,
    "correlation_probabilities": min,
    "kdl": max,
    "agreement": min,
    "largest_difference": max,
}


def compare(kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> Metrics:
    """All metrics of one output; those of probabilities and classes are None for ``values``."""
    p, q = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    largest = float(np.abs(p - q).max())
    if kind == "values":
        return {
            "correlation": correlation(p, q),
            "correlation_per_sample": correlation_per_sample(p, q) if p[0].size > 1 else None,
            "correlation_probabilities": None,
            "kdl": None,
            "agreement": None,
            "largest_difference": largest,
        }
    return {
        "correlation": correlation(deviations(p, -1), deviations(q, -1)),
        "correlation_per_sample": correlation_per_sample(deviations(p, -1), deviations(q, -1)),
        "correlation_probabilities": correlation(np.exp(log_softmax(p)), np.exp(log_softmax(q))),
        "kdl": kdl(p, q),
        "agreement": agreement(p, q),
        "largest_difference": largest,
    }


def worst(metrics: Sequence[Metrics]) -> Metrics:
    """For a task of several outputs: each metric where it is worst; None where no output has it."""
    found = {name: [one for m in metrics if (one := m[name]) is not None] for name in WORST}
    return {name: pick(found[name]) if found[name] else None for name, pick in WORST.items()}


def correlation(expected: Numbers, got: Numbers) -> float:
    """Pearson's r over all entries, in [-1, 1]; 0 where a side is constant."""
    return float(correlation_per_sample(expected.reshape(1, -1), got.reshape(1, -1)))


def correlation_per_sample(expected: Numbers, got: Numbers) -> float:
    """The mean of ``correlations``."""
    return float(correlations(expected, got).mean())


def correlations(expected: Numbers, got: Numbers) -> Numbers:
    """Pearson's r over the entries of each sample ``[N]``; 0 where the sample is constant on a side."""
    p = deviations(expected.reshape(len(expected), -1), -1)  # (N, entries)
    q = deviations(got.reshape(len(got), -1), -1)
    norms = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    r = np.divide((p * q).sum(1), norms, out=np.zeros(len(p)), where=norms > 0)
    made: Numbers = np.clip(r, -1, 1)
    return made


def deviations(x: Numbers, axis: int) -> Numbers:
    """``x`` minus its mean along ``axis``, exactly 0 where only rounding is left of it."""
    left: Numbers = x - x.mean(axis, keepdims=True)
    left[np.abs(left) <= ROUNDING * np.abs(x).max(axis, keepdims=True)] = 0
    return left


def log_softmax(logits: Numbers) -> Numbers:
    shifted = logits - logits.max(-1, keepdims=True)
    made: Numbers = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return made


def kdl(expected: Numbers, got: Numbers) -> float:
    """The distillation loss KL(softmax(expected) || softmax(got)) in nats, mean over rows (Hinton et al. 2015, at T = 1)."""
    return max(0.0, float(divergences(expected, got).mean()))


def divergences(expected: Numbers, got: Numbers) -> Numbers:
    """The divergence of each row of logits, ``[N, ...]`` without the last axis."""
    p, q = log_softmax(expected), log_softmax(got)
    made: Numbers = (np.exp(p) * (p - q)).sum(-1)
    return made


def agreement(expected: Numbers, got: Numbers) -> float:
    """The share of rows with the same most likely class; of equal logits the first counts."""
    return float(agreeing(expected, got).mean())


def agreeing(expected: Numbers, got: Numbers) -> npt.NDArray[np.bool_]:
    """Whether each row of logits has the same most likely class, ``[N, ...]`` without the last axis."""
    made: npt.NDArray[np.bool_] = np.asarray(expected.argmax(-1) == got.argmax(-1))
    return made


def worst_class(
    labels: npt.NDArray[np.int64],
    classes: Sequence[str],
    expected: Numbers,
    got: Numbers,
    aggregate: Callable[[Numbers], float],
) -> dict[str, Any] | None:
    """``{"class", "drop"}`` of the class whose score fell most, from per-sample statistics ``[N, k]``.

    Passed over are classes without a sample, and those of which alone the score is not defined (an AUC of one class).
    None when no class is left.
    """
    rows = {name: labels == number for number, name in enumerate(classes)}
    drops = {name: aggregate(expected[row]) - aggregate(got[row]) for name, row in rows.items() if row.any()}
    defined = {name: drop for name, drop in drops.items() if math.isfinite(drop)}
    if not defined:
        return None
    name = max(defined, key=lambda each: defined[each])
    return {"class": name, "drop": defined[name]}

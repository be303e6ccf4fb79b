"""Intervals: what the bounds of every metric in the ledger rest on, and the bounds.

The samples of the test split are a sample of all inputs; the bounds say how far the number may be off for that reason. A share
(agreement, and every score whose statistics are 0 or 1) has score bounds in closed form. Everything else is resampled by whole
samples, because the entries of one answer are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Task
from attar.pipeline.errors import StageError
from attar.stages.proof import metrics, statistics
from attar.stages.proof.metrics import Kind, Numbers
from attar.stages.proof.statistics import Bounds, Name, Sums

Rests = Bounds | Sums
"""Bounds in closed form, or the sums over samples of which the resampled metric is a function."""


def of_output(kind: Kind, expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> dict[str, Rests]:
    """For one output of two models, ``[N, ...]``: as ``metrics.compare``, without the metrics that are None or have no bounds."""
    p, q = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    if kind == "values":
        alone = {"correlation_per_sample": mean(metrics.correlations(p, q))} if p[0].size > 1 else {}
        return {"correlation": pooled(p, q), **alone}
    centred = metrics.deviations(p, -1), metrics.deviations(q, -1)
    probabilities = np.exp(metrics.log_softmax(p)), np.exp(metrics.log_softmax(q))
    return {
        "correlation": pooled(*centred),
        "correlation_per_sample": mean(metrics.correlations(*centred)),
        "correlation_probabilities": pooled(*probabilities),
        "kdl": mean(a_sample(metrics.divergences(p, q))),
        "agreement": share(a_sample(metrics.agreeing(p, q))),
    }


def score(task: Task, scored: Numbers) -> Rests:
    """Of the aggregate of per-sample statistics ``[N, k]``. Raises StageError where some resample has none."""
    if averages(task):
        return share(scored[:, 0])
    with defined(task):
        return statistics.bootstrap_rows(len(scored), lambda index: task.aggregate(scored[index]))


def score_drop(task: Task, expected: Numbers, got: Numbers) -> Bounds:
    """Of the drop from ``expected`` to ``got``, per-sample statistics ``[N, k]`` of the same samples. Raises as ``score``."""
    before, after = expected[:, 0], got[:, 0]
    if averages(task) and binary(before) and binary(after):
        return statistics.paired(int((before > after).sum()), int((before < after).sum()), len(got))
    with defined(task):
        return statistics.bootstrap_drop(expected, got, task.aggregate)


@contextmanager
def defined(task: Task) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StageError(f"{type(task).__name__}.aggregate has no bounds: {error}") from error


def averages(task: Task) -> bool:
    """Whether its score is the mean of the first statistic, as by default."""
    return type(task).aggregate is Task.aggregate


def binary(values: Numbers) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def share(values: Numbers) -> Rests:
    """Of a mean: in closed form where it is a share of the samples."""
    return statistics.proportion(int(values.sum()), len(values)) if binary(values) else mean(values)


def mean(values: Numbers) -> Sums:
    return Sums(np.stack([values, np.ones_like(values)], 1), ratio)


def ratio(sums: Numbers) -> Numbers:
    """``[..., 2] -> [...]``"""
    made: Numbers = sums[..., 0] / sums[..., 1]
    return made


def a_sample(rows: npt.NDArray[Any]) -> Numbers:
    """The mean over the rows of each sample, ``[N, ...] -> [N]``."""
    made: Numbers = np.asarray(rows, np.float64).reshape(len(rows), -1).mean(1)
    return made


def pooled(expected: Numbers, got: Numbers) -> Sums:
    """Of Pearson's r over all entries. Each side is centred first, so that the sums do not cancel."""
    p, q = (metrics.deviations(side.reshape(1, -1), -1).reshape(len(side), -1) for side in (expected, got))
    entries = np.full(len(p), float(p[0].size))
    columns = np.stack([entries, p.sum(1), q.sum(1), (p * p).sum(1), (q * q).sum(1), (p * q).sum(1)], 1)  # (N, 6)
    return Sums(columns, pearson)


def pearson(sums: Numbers) -> Numbers:
    """``[..., 6] -> [...]``; 0 where a side is constant."""
    n, p, q, pp, qq, pq = np.moveaxis(sums, -1, 0)
    variances = np.maximum(0, n * pp - p * p) * np.maximum(0, n * qq - q * q)
    r = np.divide(n * pq - p * q, np.sqrt(variances), out=np.zeros_like(pq), where=variances > 0)
    made: Numbers = np.clip(r, -1, 1)
    return made


def resolved(rests: Mapping[Name, Rests]) -> dict[Name, list[float]]:
    """All bounds, ``[low, high]``; what is resampled is resampled together."""
    drawn = statistics.bootstrap({name: rest for name, rest in rests.items() if isinstance(rest, Sums)})
    return {name: list(drawn[name] if isinstance(rest, Sums) else rest) for name, rest in rests.items()}

"""Intervals: what the bounds of every metric in the ledger are computed from, and the bounds.

The samples of the test split are a sample of all inputs; the bounds tell how far a number may be
off for that reason. A share (agreement, and every score whose statistics are 0 or 1) has score
bounds in closed form. Everything else is resampled by whole samples, because the entries of one
answer are not independent; pairs of samples are resampled by whole groups of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from attar.models.task import Task
from attar.pipeline.core.errors import StageError
from attar.proof.estimates import statistics
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.estimates.metrics import OutputComparison
from attar.proof.estimates.statistics import Name
from attar.proof.estimates.sums import Numbers, Sums, compute_mean, count_values

SHARES = frozenset({"agreement", "identical"})
"""The metrics that may be a share of the samples."""
BoundsSource = ConfidenceBounds | Sums
"""Bounds in closed form, or the sums over samples of which the resampled metric is a function."""


def list_metric_bounds(found: OutputComparison) -> dict[str, BoundsSource]:
    """For one output of two models: of every metric that has bounds, by name."""
    rests: dict[str, BoundsSource] = dict(found.sums)
    for name in SHARES & found.sums.keys():
        values, weights = found.sums[name].columns.T
        if (weights == 1).all():  # of tokens a sample has as many as its path
            rests[name] = bound_share(values)
    return rests


def bound_score(task: Task, scored: Numbers) -> BoundsSource:
    """Return what bounds the aggregate of per-sample statistics ``[N, k]``.

    Raises StageError if some resample has no aggregate.
    """
    if has_mean_score(task):
        return bound_share(scored[:, 0])
    with explain_undefined_bounds(task):
        return statistics.bootstrap_rows(len(scored), lambda index: task.aggregate(scored[index]))


def bound_score_drop(task: Task, expected: Numbers, got: Numbers) -> ConfidenceBounds:
    """Return the bounds of the drop from ``expected`` to ``got``, per-sample statistics ``[N, k]``.

    Both are of the same samples. Raises StageError if some resample has no aggregate.
    """
    before, after = expected[:, 0], got[:, 0]
    if has_mean_score(task) and is_binary(before) and is_binary(after):
        return statistics.bound_paired_drop(
            int((before > after).sum()), int((before < after).sum()), len(got)
        )
    with explain_undefined_bounds(task):
        return statistics.bootstrap_drop(expected, got, task.aggregate)


@contextmanager
def explain_undefined_bounds(task: Task) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StageError(f"{type(task).__name__}.aggregate has no bounds: {error}") from error


def has_mean_score(task: Task) -> bool:
    """Whether its score is the mean of the first statistic, as by default."""
    return type(task).aggregate is Task.aggregate


def is_binary(values: Numbers) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def bound_share(values: Numbers) -> BoundsSource:
    """Of a mean: in closed form where it is a share of the samples."""
    return (
        statistics.bound_proportion(int(values.sum()), len(values))
        if is_binary(values)
        else sum_for_mean(values)
    )


def sum_for_mean(values: Numbers) -> Sums:
    return Sums(count_values(values), compute_mean)


def compute_bounds(sources: Mapping[Name, BoundsSource]) -> dict[Name, ConfidenceBounds]:
    """Return all bounds. What is resampled by the same rows is resampled together."""
    drawn = statistics.bootstrap_bounds(
        {name: source for name, source in sources.items() if isinstance(source, Sums)}
    )
    return {
        name: drawn[name] if isinstance(source, Sums) else source
        for name, source in sources.items()
    }

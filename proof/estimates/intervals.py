"""Intervals: what the bounds of every metric in the ledger are computed from, and the bounds.

The samples of the test split are a sample of all inputs; the bounds tell how far a number may be
off for that reason. A share of samples (agreement, and every score whose statistics are 0 or 1) has
score bounds in closed form. Everything else is resampled by whole samples, because the entries of
one answer are not independent; pairs of samples are resampled by whole groups of samples. A share
of rows, of which a sample has several, is resampled too, see ``bound_shares_below``.
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
from attar.proof.estimates.sums import Numbers, ShareSums, Sums, compute_mean, count_values

SHARES = frozenset({"agreement", "identical"})
"""The metrics that are a share of the samples, or of their rows."""
BoundsSource = ConfidenceBounds | Sums
"""Bounds in closed form, or the sums over samples of which the resampled metric is a function."""


def list_metric_bounds(found: OutputComparison) -> dict[str, BoundsSource]:
    """For one output of two models: of every metric that has bounds, by name."""
    rests: dict[str, BoundsSource] = dict(found.sums)
    for name in SHARES & found.sums.keys():
        rests[name] = bound_share(found.sums[name].columns)
    return rests


def bound_score(task: Task, scored: Numbers) -> BoundsSource:
    """Return what bounds the aggregate of per-sample statistics ``[N, k]``.

    Raises StageError if some resample has no aggregate.
    """
    if has_mean_score(task):
        return bound_mean(scored[:, 0])
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


def bound_mean(values: Numbers) -> BoundsSource:
    """Of a mean over samples ``[N]``. It is a share where all values lie in [0, 1]."""
    columns = count_values(values)
    is_share = values.min() >= 0 and values.max() <= 1
    return bound_share(columns) if is_share else Sums(columns, compute_mean)


def bound_share(columns: Numbers) -> BoundsSource:
    """Of a share, from its hits and rows by sample ``[N, 2]``: in closed form where it is a share
    of the samples."""
    hits, rows = columns.T
    if (rows == 1).all() and is_binary(hits):
        return statistics.bound_proportion(int(hits.sum()), len(hits))
    return ShareSums(columns, compute_mean)


def compute_bounds(sources: Mapping[Name, BoundsSource]) -> dict[Name, ConfidenceBounds]:
    """Return all bounds. What is resampled by the same rows is resampled together."""
    drawn = statistics.bootstrap_bounds(
        {name: source for name, source in sources.items() if isinstance(source, Sums)}
    )
    lows = bound_shares_below(
        {name: source for name, source in sources.items() if isinstance(source, ShareSums)}
    )
    return {
        name: drawn[name]._replace(low=lows.get(name, drawn[name].low))
        if isinstance(source, Sums)
        else source
        for name, source in sources.items()
    }


def bound_shares_below(shares: Mapping[Name, ShareSums]) -> dict[Name, float]:
    """Return the lower bound of each share of rows.

    A bootstrap sees no miss that no sample shows, so it is told of one sample more without a hit.
    Near 1 that is too much, and the bound is the one for samples whose rows are all hits or all
    misses: no other samples of the same mean vary more (Bhatia and Davis 2000). It is that of a
    proportion, with the effective number of samples (Kish 1965).
    """
    missed = statistics.bootstrap_bounds({name: each.add_miss() for name, each in shares.items()})
    lows = {}
    for name, each in shares.items():
        samples = each.effective_samples
        proportion = statistics.bound_proportion(each.value * samples, samples)
        lows[name] = max(missed[name].low, proportion.low)
    return lows

"""Sequences: how near the next tokens of one model are to those of another, along the same paths.

Both sides are what ``models.top_answers.describe_logits`` returns, ``[N, T, k + 2]``, padded with
NaN at the end of each path. Every metric is a ratio of sums over tokens, summed by sample, because
samples are independent and the tokens of one are not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attar.proof.estimates.metrics import STATISTICS, OutputComparison
from attar.proof.estimates.sums import (
    Numbers,
    Sums,
    correlate_sums,
    count_values,
    subtract_mean,
    sum_products,
)

Floats = npt.NDArray[np.float32]


def compare_sequences(expected: Floats, got: Floats) -> OutputComparison:
    """Return CORR, KDL and agreement of two models' next tokens.

    - ``correlation``: Pearson's r of the log-probabilities of the teacher's top tokens, each place
      minus its mean
    - ``correlation_probabilities``: the same of the probabilities of these and of all others
    - ``kdl``: KL(expected || got) over these and all others, the mean over tokens
    - ``agreement``: the share of places with the same most likely token

    A teacher that only translates is expected by its tokens alone, ``[N, T, 1]``: then there is
    agreement and nothing else. Two models at one token, its own, have no ``correlation``: one
    log-probability minus its mean is 0.
    """
    columns: dict[str, list[Numbers]] = {}
    has_logs, largest = expected.shape[-1] > 1, 0.0
    for p, q in zip(expected, got, strict=True):
        own = ~np.isnan(p[:, -1])
        p, q = np.asarray(p[own], np.float64), np.asarray(q[own], np.float64)
        for name, sums in sum_path_metrics(p, q).items():
            columns.setdefault(name, []).append(sums)
        if has_logs:
            largest = max(largest, float(np.abs(p[:, :-2] - q[:, :-2]).max(initial=0)))
    joined = {name: np.stack(rows) for name, rows in columns.items()}
    return OutputComparison(
        {name: Sums(joined[name], STATISTICS[name]) for name in joined},
        largest if has_logs else None,
    )


def sum_path_metrics(p: Numbers, q: Numbers) -> dict[str, Numbers]:
    """Return the sums of one sample's path, from two sides ``[T, k + 2]``."""
    agreed = np.array([(p[:, -1] == q[:, -1]).sum(), len(p)], np.float64)
    if p.shape[1] == 1:
        return {"agreement": agreed}
    logs, other_logs = p[:, :-1], q[:, :-1]
    likely, other = np.exp(logs), np.exp(other_logs)
    even = 1 / logs.shape[1]
    divergences = np.maximum(0, (likely * (logs - other_logs)).sum(1))
    return {
        **correlate_tops(p[:, :-2], q[:, :-2]),
        "correlation_probabilities": sum_products(
            (likely - even).reshape(1, -1), (other - even).reshape(1, -1)
        )[0],
        "kdl": np.array([divergences.sum(), len(p)], np.float64),
        "agreement": agreed,
    }


def correlate_tops(p: Numbers, q: Numbers) -> dict[str, Numbers]:
    """Return what correlates top log-probabilities ``[T, k]``; nothing of one at each place."""
    if p.shape[1] == 1:
        return {}
    tops = [subtract_mean(side.copy(), -1).reshape(1, -1) for side in (p, q)]
    pooled = sum_products(*tops)
    return {
        "correlation": pooled[0],
        "correlation_per_sample": count_values(correlate_sums(pooled))[0],
    }

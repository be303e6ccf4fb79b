"""Retrieval: a score for embeddings whose targets are groups of samples that belong together.

A sample is found if its nearest other sample, by cosine, is of its own group: two sentences of one
text, two pictures of one thing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.models.task import Array

Numbers = npt.NDArray[np.float64]

ENTRIES = 2**22  # cosines that are in memory at a time: 32 MB, of 10,000 samples 419 rows
ROUNDING = 1e-12  # cosines that differ by less count as equal


def measure_retrieval(embeddings: Array, groups: Array) -> Numbers:
    """Return statistics ``[N, 2]`` of embeddings ``[N, dimensions]`` and groups ``[N]``: found (0
    or 1) and counted (0 or 1).

    A sample counts if there are others of its group and others outside it. Of two samples at equal
    distance the one outside counts as nearer, so embeddings that are all equal find nothing;
    neither does a vector of zeros. Bounds that resample these rows hold for other queries among the
    same samples.
    """
    labels = np.unique(groups, return_inverse=True)[1].reshape(-1)
    alike = np.bincount(labels)[labels]  # (N,): samples of its group
    counted = (alike > 1) & (alike < len(labels))
    found = np.zeros(len(labels), bool)
    for rows, cosines in iterate_blocks(np.asarray(embeddings, np.float64)):
        own = labels[rows, None] == labels
        nearest, other = (np.where(mask, cosines, -np.inf).max(1) for mask in (own, ~own))
        found[rows] = counted[rows] & (nearest > other + ROUNDING)
    return np.stack([found, counted], 1).astype(np.float64)


def sum_groups(statistics: Numbers, groups: Array) -> Numbers:
    """Return the sums of each group in the row of its first sample and 0 in the others, ``[N, k] ->
    [N, k]``.

    Use it for small groups: of a pair usually both samples are found or neither, so separate rows
    would count one observation twice and make bounds too narrow. Do not use it if groups are
    classes: few groups leave nothing to resample.
    """
    _, first, labels = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros_like(statistics)
    np.add.at(sums, first[labels.reshape(-1)], statistics)
    return sums


def compute_share_found(statistics: Numbers) -> float:
    """Return precision at 1, for ``Task.aggregate``: the share of counted samples that were found;
    0 if none counts."""
    found, counted = statistics.sum(0)
    return float(found / counted) if counted else 0.0


def iterate_blocks(embeddings: Numbers) -> Iterator[tuple[npt.NDArray[np.int64], Numbers]]:
    """Yield blocks of rows with their cosines with all samples ``[rows, N]``, which are -inf for a
    sample with itself."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    step = max(1, ENTRIES // len(unit))
    for start in range(0, len(unit), step):
        rows = np.arange(start, min(start + step, len(unit)))
        cosines = unit[rows] @ unit.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        yield rows, cosines

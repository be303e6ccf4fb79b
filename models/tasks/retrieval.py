"""Retrieval: a score of embeddings whose targets are no labels, only which samples belong together.

A sample is found when the nearest other one, by cosine, is of its own group: two sentences of one
text, two pictures of a thing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.models.task import Array

Numbers = npt.NDArray[np.float64]

ENTRIES = 2**22  # cosines that are in memory at a time: 32 MB, of 10,000 samples 419 rows
ROUNDING = 1e-12  # of a cosine: nearer than this is as near


def measure_retrieval(embeddings: Array, groups: Array) -> Numbers:
    """Statistics ``[N, 2]`` of embeddings ``[N, dimensions]`` and the group of each ``[N]``: found
    (0 or 1), counted (0 or 1).

    Counted is who has another of its group, and one that is not. Of two that are equally near the
    one of another group is taken, so that embeddings which are all alike find nothing; neither does
    a vector of zeros. Bounds that resample these rows hold for other samples that are looked for
    among the same ones.
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


def average_groups(statistics: Numbers, groups: Array) -> Numbers:
    """The sums of each group in the row of its first sample, 0 in the others, ``[N, k] -> [N, k]``.

    For groups of a few: of a pair mostly both are found or neither is, and rows of their own would
    count one observation twice, which brings bounds too near. Not for groups that are classes: of
    few groups there is nothing to resample.
    """
    _, first, labels = np.unique(groups, return_index=True, return_inverse=True)
    made = np.zeros_like(statistics)
    np.add.at(made, first[labels.reshape(-1)], statistics)
    return made


def compute_share_found(statistics: Numbers) -> float:
    """Precision at 1, for ``Task.aggregate``: the share of the counted that were found; 0 where
    none counts."""
    found, counted = statistics.sum(0)
    return float(found / counted) if counted else 0.0


def iterate_blocks(embeddings: Numbers) -> Iterator[tuple[npt.NDArray[np.int64], Numbers]]:
    """Some rows at a time, and their cosines with all samples ``[rows, N]``, -inf with
    themselves."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    step = max(1, ENTRIES // len(unit))
    for start in range(0, len(unit), step):
        rows = np.arange(start, min(start + step, len(unit)))
        cosines = unit[rows] @ unit.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        yield rows, cosines

"""The nearest of many vectors to some others, in memory that does not grow with the many."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from attar.proof.checks.sketches import Floats

GROUPS = 16
"""Groups that the many vectors are dealt into; the nearest of each is found."""
Integers = npt.NDArray[np.int64]


class Nearest:
    """For some vectors the nearest one of each group. The many are added a chunk at a time."""

    def __init__(self, queries: Floats) -> None:
        self.queries = queries
        self.distances = np.full((len(queries), GROUPS), np.inf, np.float32)
        """Squared, less what is the same for all that are added."""
        self.numbers = np.zeros((len(queries), GROUPS), np.int64)

    def add(self, first: int, vectors: Floats) -> None:
        """Add vectors ``[M, D]``. The first one has the number ``first``.

        A vector's place modulo ``GROUPS`` is its group.
        """
        full = -(-len(vectors) // GROUPS) * GROUPS
        order = np.arange(full).reshape(-1, GROUPS).T.ravel()
        known = np.minimum(order, len(vectors) - 1)
        lengths = np.where(order < len(vectors), np.square(vectors).sum(1)[known], np.inf)
        products = self.queries @ vectors[known].T
        apart = (lengths.astype(np.float32) - 2 * products).reshape(len(self.queries), GROUPS, -1)
        places = apart.argmin(2)
        least = np.take_along_axis(apart, places[..., None], 2)[..., 0]
        is_nearer = least < self.distances
        self.distances = np.where(is_nearer, least, self.distances)
        numbers = first + known.reshape(GROUPS, -1)[np.arange(GROUPS), places]
        self.numbers = np.where(is_nearer, numbers, self.numbers)


def iterate_blocks(rows: Integers, size: int) -> Iterator[Integers]:
    return (rows[start : start + size] for start in range(0, len(rows), size))

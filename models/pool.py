"""Pool: chunks whose samples are shuffled together, and the share of them that a process reads."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from attar.models.sample_order import CHUNK, Integers

POOL_CHUNKS = 32
"""Chunks that are shuffled together where samples differ in length: 16,384 samples to choose those
of similar length from."""
LANES = 16
"""Chunks that are shuffled together elsewhere: 8,192 samples."""


@dataclass(frozen=True)
class Share:
    """The part of each batch that one of ``world`` processes reads."""

    rank: int = 0
    world: int = 1

    def take(self, rows: Integers, start: int = 0) -> Integers:
        """Return its rows of those that begin at position ``start`` of the epoch."""
        return rows[(self.rank - start) % self.world :: self.world]


@dataclass(frozen=True)
class Pool:
    """Chunks whose samples are shuffled together."""

    numbers: Integers
    sizes: Integers
    """Samples of each chunk."""
    start: int
    """Samples of the epoch before this pool."""
    is_dealt: bool
    """Whether it holds ``LANES`` whole chunks, one sample of each in turn."""

    @property
    def end(self) -> int:
        return self.start + int(self.sizes.sum())

    def shuffle(self, order: np.random.Generator) -> Integers:
        """Return its rows, counted chunk after chunk, in random order."""
        if not self.is_dealt:
            return order.permutation(self.end - self.start)
        rows = np.arange(LANES * CHUNK).reshape(LANES, CHUNK)
        return order.permuted(rows, axis=1).T.ravel()

    def list_chunks(self, share: Share) -> list[int]:
        """Return the places of the chunks that hold samples of this share."""
        step = gcd(share.world, LANES) if self.is_dealt else 1
        return [place for place in range(len(self.numbers)) if (place - share.rank) % step == 0]

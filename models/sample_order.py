"""The order in which the samples of a split that is learned from are cut into chunks: shuffled once
and for all.

A chunk of consecutive samples of a split that is sorted by class holds one class, and so few chunks
as are in memory at once hold few. A chunk of any samples holds a fair share of all, whatever the
order of the split.

The first ``BLOCK`` samples are shuffled among themselves, then the next as many, twice as many,
four times as many: a split that grows at its end keeps its chunks but for those of the last block.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

CHUNK = 512
"""Samples that are augmented, and stored, together."""
BLOCK = 32 * CHUNK

Integers = npt.NDArray[np.int64]


def list_blocks(samples: int) -> list[int]:
    """Return how many samples each block has; together they are all."""
    ends = [0]
    while ends[-1] < samples:
        ends.append(min(samples, max(BLOCK, 2 * ends[-1])))
    return [high - low for low, high in pairwise(ends)]


@lru_cache(maxsize=8)
def shuffle_samples(samples: int) -> Integers:
    """Return every sample once, by its place: chunk after chunk, in ascending order within each,
    which is how files are read."""
    order, start = np.arange(samples), 0
    for number, size in enumerate(list_blocks(samples)):
        np.random.default_rng(number).shuffle(order[start : start + size])
        start += size
    for start in range(0, samples, CHUNK):
        order[start : start + CHUNK].sort()
    order.setflags(write=False)
    return order


@lru_cache(maxsize=8)
def find_places(samples: int) -> Integers:
    """Return the place of every sample: the inverse of ``shuffle_samples``."""
    places = np.argsort(shuffle_samples(samples))
    places.setflags(write=False)
    return places


@lru_cache(maxsize=8)
def digest_order(samples: int) -> str:
    """Return what tells this order from any other; stored answers carry it."""
    return hashlib.sha256(shuffle_samples(samples).astype("<i8").tobytes()).hexdigest()[:32]


def mix_chunks(blocks: list[int], order: np.random.Generator) -> Integers:
    """Return the numbers of all chunks in random order; ``blocks``: how many samples each block
    has.

    The chunks of every block are spread evenly, so that whatever part of the order is in memory
    holds its share of each.
    """
    counts = [-(-size // CHUNK) for size in blocks]
    return np.argsort(
        np.concatenate(
            [(order.permutation(count) + order.random(count)) / count for count in counts]
        )
    )

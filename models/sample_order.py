"""The order in which samples of a split are cut into chunks for training: shuffled once and for
all.

In a split that is sorted by class, a chunk of consecutive samples holds one class, and the few
chunks that are in memory at once hold few classes. A chunk of shuffled samples holds a fair share
of every class, whatever the order of the split.

Blocks are shuffled separately: the first ``BLOCK`` samples, then the next as many, then twice as
many, and so on. So a split that grows at its end keeps all chunks but those of its last block.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

CHUNK = 512
"""Number of samples that are augmented and stored together."""
BLOCK = 32 * CHUNK

Integers = npt.NDArray[np.int64]


def list_blocks(samples: int) -> list[int]:
    """Return the number of samples in each block; their sum is ``samples``."""
    ends = [0]
    while ends[-1] < samples:
        ends.append(min(samples, max(BLOCK, 2 * ends[-1])))
    return [high - low for low, high in pairwise(ends)]


@lru_cache(maxsize=8)
def shuffle_samples(samples: int) -> Integers:
    """Return the index of every sample, chunk after chunk. Indices ascend within a chunk, which is
    how files are read."""
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
    """Return the position of every sample in the order: the inverse of `shuffle_samples`."""
    places = np.argsort(shuffle_samples(samples))
    places.setflags(write=False)
    return places


@lru_cache(maxsize=8)
def digest_order(samples: int) -> str:
    """Return the digest that identifies this order; stored answers carry it."""
    return hashlib.sha256(shuffle_samples(samples).astype("<i8").tobytes()).hexdigest()[:32]


def mix_chunks(blocks: list[int], order: np.random.Generator) -> Integers:
    """Return the numbers of all chunks in random order. ``blocks`` has the number of samples in
    each block.

    The chunks of every block are spread evenly, so that any part of the order holds its share of
    each block.
    """
    counts = [-(-size // CHUNK) for size in blocks]
    places = [(order.permutation(count) + order.random(count)) / count for count in counts]
    return np.argsort(np.concatenate(places))

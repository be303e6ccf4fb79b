"""Overlap: whether the test split shares samples with a split that decides the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from attar.models.checks.content import read_content
from attar.models.task import Arrays, Batch, Split, SplitName
from attar.pipeline.core.errors import StageError

BATCH_SAMPLES = 4096
"""Number of samples in memory at once."""


def check_overlap(splits: Mapping[SplitName, Split]) -> None:
    """Raises StageError if a test sample is in a split that trains or selects a network."""
    test = set(hash_samples(splits["test"]))
    for name, split in splits.items():
        # Only what is shared stays in memory: a training split may be large.
        shared = set() if name == "test" else {d for d in hash_samples(split) if d in test}
        if shared:
            raise StageError(
                f"{len(shared)} of {len(test)} different test samples are in the {name} split too, "
                "byte for byte; a score on them proves nothing: split again"
            )


def hash_samples(split: Split) -> Iterator[bytes]:
    for batch in iterate_batches(split):
        yield from hash_rows(batch.inputs)


def hash_rows(inputs: Arrays) -> Iterator[bytes]:
    """Yield a digest for each sample, over the content of all its raw inputs."""
    columns = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
    for row in range(len(columns[0])):
        content = b"".join(read_content(column[row]) for column in columns)
        yield hashlib.blake2b(content, digest_size=16).digest()


def iterate_batches(split: Split) -> Iterator[Batch]:
    for indices in list_batches(split):
        yield split.take(indices)


def list_batches(split: Split) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the indices of all samples, as many at a time as are in memory at once."""
    for start in range(0, len(split), BATCH_SAMPLES):
        yield np.arange(start, min(start + BATCH_SAMPLES, len(split)))

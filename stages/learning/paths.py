"""Paths: the tokens that a network reads while it learns to generate them.

A network that generates is trained on whole sequences: it reads all tokens of a path but the last,
and each of its logits is about the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attar.engines.runtimes.torch import PREFIX
from attar.models.generation import Decoding, Integers, measure_lengths, pad_path, shift_path
from attar.models.rows import Rows
from attar.models.task import Array, Arrays
from attar.models.views import ViewBatch
from attar.stages.learning.lesson import list_places


def read_label_path(batch: ViewBatch, target: str, decoding: Decoding) -> Integers:
    """Return the labels as paths ``[labelled, T]``, without padding that none of them needs."""
    return trim_path(np.asarray(batch.targets[target], np.int64), decoding)


def read_answer_path(rows: Rows, indices: npt.NDArray[np.int64], decoding: Decoding) -> Integers:
    """Return stored tokens as paths ``[len(indices), T]``."""
    return trim_path(rows[indices].astype(np.int64), decoding)


def trim_path(path: Integers, decoding: Decoding) -> Integers:
    lengths = measure_lengths(path, decoding.vocabulary)
    return path[:, : max(1, int(lengths.max(initial=1)))]


def add_prefixes(inputs: Arrays, paths: Sequence[Integers], decoding: Decoding) -> Arrays:
    """Return the inputs with what a network reads to predict these paths.

    The inputs are repeated once for each path; a path of fewer samples is about the first ones.
    """
    words = decoding.vocabulary
    width = max(path.shape[1] for path in paths)
    prefix = np.concatenate([pad_path(shift_path(path, words), words.pad, width) for path in paths])
    repeated: dict[str, Array] = {
        name: np.concatenate([array[: len(path)] for path in paths])
        for name, array in inputs.items()
    }
    return {**repeated, PREFIX: prefix}


def mask_path(path: Integers, decoding: Decoding) -> npt.NDArray[np.bool_]:
    """Return where a path holds tokens, its end token included, ``[N, T]``."""
    lengths = measure_lengths(path, decoding.vocabulary)
    mask: npt.NDArray[np.bool_] = np.arange(path.shape[1]) < lengths[:, None]
    return mask


def count_tokens(path: Integers, decoding: Decoding) -> int:
    return int(mask_path(path, decoding).sum())


def list_token_places(path: Integers, decoding: Decoding, start: int = 0) -> Integers:
    """Return where the logits about the tokens of a path are, ``[2, R]``.

    The logits ``[N, T or more, size]`` are about all paths of a batch. Those of this one begin at
    row ``start``. Padding is left out.
    """
    places: Integers = list_places(mask_path(path, decoding)) + np.array([[start], [0]])
    return places

"""Paths: the tokens that a network reads while it learns to generate them.

A network that generates is trained on whole sequences: it reads all tokens of a path but the last,
and each of its logits is about the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attar.engines.runtimes.torch import PREFIX
from attar.models.generation import Decoding, Integers, measure_lengths, pad_path, shift_path
from attar.models.rows import Rows
from attar.models.task import Array
from attar.models.views import ViewBatch


def read_label_path(batch: ViewBatch, target: str, decoding: Decoding) -> Integers:
    """Return the labels as paths ``[labelled, T]``, without padding that none of them needs."""
    return trim_path(np.asarray(batch.targets[target], np.int64), decoding)


def read_answer_path(rows: Rows, indices: npt.NDArray[np.int64], decoding: Decoding) -> Integers:
    """Return stored tokens as paths ``[len(indices), T]``."""
    return trim_path(rows[indices].astype(np.int64), decoding)


def trim_path(path: Integers, decoding: Decoding) -> Integers:
    lengths = measure_lengths(path, decoding.vocabulary)
    return path[:, : max(1, int(lengths.max(initial=1)))]


def add_prefixes(batch: ViewBatch, paths: list[Integers], decoding: Decoding) -> ViewBatch:
    """Return the batch with what a network reads to predict these paths.

    The inputs are repeated once for each path; a path of fewer samples is about the first ones.
    """
    words = decoding.vocabulary
    width = max(path.shape[1] for path in paths)
    prefix = np.concatenate([pad_path(shift_path(path, words), words.pad, width) for path in paths])
    inputs: dict[str, Array] = {
        name: np.concatenate([array[: len(path)] for path in paths])
        for name, array in batch.inputs.items()
    }
    return replace(batch, inputs={**inputs, PREFIX: prefix})


def mask_path(path: Integers, decoding: Decoding) -> npt.NDArray[np.bool_]:
    """Return where a path holds tokens, its end token included, ``[N, T]``."""
    lengths = measure_lengths(path, decoding.vocabulary)
    mask: npt.NDArray[np.bool_] = np.arange(path.shape[1]) < lengths[:, None]
    return mask


def select_tokens(logits: Tensor, path: Integers, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Return the logits ``(R, size)`` about the tokens of a path, and these tokens ``(R,)``.

    ``logits`` ``(N, T or more, size)`` are about paths ``[N, T]``. Padding is left out.
    """
    mask = mask_path(path, decoding)
    chosen = logits[:, : path.shape[1]][torch.from_numpy(mask).to(logits.device)]
    return chosen, torch.from_numpy(path[mask]).to(logits.device)


def copy_to(device: torch.device, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for name, array in arrays.items()
    }

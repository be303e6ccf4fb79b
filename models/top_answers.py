"""Top answers: the largest log-probabilities of each next token, and the share of all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attar.models.generation import Decoding, Floats, Integers, follow, normalize_logits
from attar.models.task import Arrays, Predict

TOP = ".top"
"""The end of the stored name of a teacher's top answers, behind the output's name."""


@dataclass(frozen=True)
class TopAnswers:
    """Distributions along paths of ``N`` samples, padded with NaN to the longest, ``T``."""

    values: Floats
    """``[N, T, k]``: log-probabilities."""
    indices: Integers
    """``[N, T, k]``: their tokens."""
    rest: Floats
    """``[N, T]``: the log of the mean probability of the other tokens; -inf if there is none."""
    size: int
    """The number of tokens of the vocabulary."""

    @property
    def is_known(self) -> npt.NDArray[np.bool_]:
        """Where the teacher answered, ``[N, T]``."""
        known: npt.NDArray[np.bool_] = ~np.isnan(self.values[..., 0])
        return known

    @property
    def best(self) -> Integers:
        """The most likely token at each place, ``[N, T]``."""
        largest = np.nan_to_num(self.values, nan=0).argmax(-1)[..., None]
        tokens: Integers = np.take_along_axis(self.indices, largest, -1)[..., 0]
        return tokens

    def describe(self) -> Floats:
        """Return them as ``describe_logits`` describes those of a model, ``[N, T, k + 2]``."""
        others = self.size - self.indices.shape[-1]
        rest = (
            self.rest + np.log(np.float32(others)) if others else np.full_like(self.rest, -np.inf)
        )
        rest = np.where(self.is_known, np.maximum(rest, FLOOR), np.nan)
        best = np.where(self.is_known, self.best, np.nan)
        return np.concatenate([self.values, rest[..., None], best[..., None]], -1).astype(
            np.float32
        )


FLOOR = np.float32(-100)
"""The least log of the others' share, which else may be minus infinity."""


def describe_logits(logits: Floats, indices: Integers) -> Floats:
    """Return what is compared of a model's logits ``[N, size]``, at a teacher's tokens ``[N, k]``.

    These are ``[N, k + 2]``: its log-probabilities of those tokens, the log of the share of all
    others, and its own most likely token. Together the first ``k + 1`` are a distribution.
    """
    logs = normalize_logits(np.asarray(logits, np.float32))
    values = np.take_along_axis(logs, indices, 1)
    others = logs.astype(np.float64)
    np.put_along_axis(others, indices, -np.inf, 1)
    with np.errstate(divide="ignore"):
        rest = np.maximum(np.log(np.exp(others).sum(1)), FLOOR)
    columns = [values, rest[:, None], logs.argmax(1)[:, None]]
    return np.concatenate(columns, 1).astype(np.float32)


def describe_following(
    graphs: Mapping[str, Predict],
    inputs: Arrays,
    path: Integers,
    top: TopAnswers,
    decoding: Decoding,
) -> Floats:
    """Return a model's next tokens along the teacher's path, as the teacher's are described.

    ``path`` ``[N, T or more]`` has the tokens that ``top`` is about. Returns ``[N, T, k + 2]``, NaN
    where the path has ended.
    """
    return describe_at(graphs, inputs, path, top.indices, top.is_known, decoding)


def describe_at(
    graphs: Mapping[str, Predict],
    inputs: Arrays,
    path: Integers,
    indices: Integers,
    is_known: npt.NDArray[np.bool_],
    decoding: Decoding,
) -> Floats:
    """As `describe_following`, at any tokens ``[N, T, k]`` where ``is_known`` ``[N, T]``."""
    steps = follow(graphs, inputs, path[:, : indices.shape[1]], decoding)
    described = [describe_logits(logits, indices[:, place]) for place, logits in enumerate(steps)]
    stacked = np.stack(described, 1)
    stacked[~is_known] = np.nan
    return stacked


def select_top(top: TopAnswers, rows: Integers) -> TopAnswers:
    """Return the top answers of these samples, at as many places as all have."""
    return TopAnswers(top.values[rows], top.indices[rows], top.rest[rows], top.size)

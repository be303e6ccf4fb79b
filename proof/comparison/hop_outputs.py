"""Outputs of a hop, scored: what is compared with other hops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from attar.models.generation import Decoding, find_decoding
from attar.models.probabilities import clip_probabilities
from attar.models.task import Array, Arrays, Task
from attar.models.top_answers import FLOOR
from attar.pipeline.core.errors import StageError
from attar.proof.hop import HopName


@dataclass(frozen=True)
class HopAnswers:
    """What a hop answered to some samples, as it came. Everything is by the output's name."""

    outputs: Arrays
    """``[N, ...]``."""
    followed: Arrays = field(default_factory=dict)
    """Of each output of tokens the next tokens along the teacher's path, ``[N, T, k + 2]``, see
    ``models.top_answers.describe_logits``."""
    repeated: Arrays = field(default_factory=dict)
    """Of each output of a graph that loops: whether its tokens are those of its parts, ``[N]``."""

    @classmethod
    def join(cls, parts: Sequence[HopAnswers]) -> HopAnswers:
        """Join the answers to consecutive samples."""
        return cls(
            join_arrays([part.outputs for part in parts]),
            join_arrays([part.followed for part in parts]),
            join_arrays([part.repeated for part in parts]),
        )


def join_arrays(parts: Sequence[Arrays]) -> dict[str, Array]:
    """Return the arrays of all parts, one after the other; all have the names of the first."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class HopOutputs:
    """One hop's outputs ``[N, ...]`` (float32, finite) and per-sample statistics ``[N, k]``."""

    hop: HopName
    outputs: dict[str, npt.NDArray[np.float32]]
    statistics: npt.NDArray[np.float64]
    nonfinite_samples: int
    """Samples with a NaN or an infinity. Such entries are read as 0, which keeps the other columns
    numbers."""
    followed: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """For each output of tokens the next tokens along the teacher's path, see
    ``models.top_answers.describe_logits``."""
    endless_share: float | None = None
    """The share of samples without an end token; None if no output holds tokens."""
    loop_faults: int | None = None
    """Samples whose tokens differ between the graph of the loop and its parts; None if there is no
    such graph."""

    @property
    def is_constant(self) -> bool:
        """Whether some output is the same for every sample: it does not depend on its input."""
        return any(
            len(array) > 1 and bool((array == array[0]).all()) for array in self.outputs.values()
        )


def score_outputs(task: Task, hop: HopName, answers: HopAnswers, targets: Arrays) -> HopOutputs:
    """Raises StageError if the task's score is not one finite row of statistics a sample."""
    raw = {
        name: np.asarray(
            clip_probabilities(output.kind, np.asarray(answers.outputs[name])), np.float32
        )
        for name, output in task.outputs.items()
    }
    samples = len(next(iter(raw.values())))
    is_bad = np.zeros(samples, bool)
    for array in raw.values():
        is_bad |= ~np.isfinite(array).reshape(samples, -1).all(1)
    finite = {
        name: np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) for name, array in raw.items()
    }
    statistics = np.asarray(task.score(finite, targets), np.float64)
    if statistics.ndim != 2 or len(statistics) != samples or not np.isfinite(statistics).all():
        raise StageError(
            f"{type(task).__name__}.score gave an array of shape {statistics.shape} for {samples} "
            "samples; it must return finite statistics of shape [samples, k]"
        )
    scored = HopOutputs(hop, finite, statistics, int(is_bad.sum()))
    decoding = find_decoding(task)
    return scored if decoding is None else add_sequences(scored, decoding, answers, is_bad)


def add_sequences(
    scored: HopOutputs,
    decoding: Decoding,
    answers: HopAnswers,
    is_bad: npt.NDArray[np.bool_],
) -> HopOutputs:
    """Return the outputs with what is compared of generated sequences.

    ``is_bad`` marks the samples whose tokens are not finite.
    """
    name = decoding.output
    followed, is_bad_path = clean_followed(np.asarray(answers.followed[name], np.float32))
    repeated = answers.repeated.get(name)
    has_end = (scored.outputs[name] == decoding.vocabulary.end).any(1)
    return replace(
        scored,
        nonfinite_samples=int((is_bad | is_bad_path).sum()),
        followed={name: followed},
        endless_share=float((~has_end).mean()),
        loop_faults=None if repeated is None else int((~np.asarray(repeated, bool)).sum()),
    )


def pack_followed(followed: npt.NDArray[np.float32]) -> dict[str, Array]:
    """Return next tokens ``[N, T, k + 2]`` as evidence holds them, a row for each token of a path.

    ``followed`` float16 ``[R, k + 1]`` are the logarithms, ``likeliest`` int32 ``[R]`` the most
    likely tokens, ``lengths`` int32 ``[N]`` the numbers of tokens of the paths. A teacher that only
    translates has no logarithms.
    """
    own = ~np.isnan(followed[..., -1])
    rows = followed[own]
    return {
        **({"followed": rows[:, :-1].astype(np.float16)} if rows.shape[1] > 1 else {}),
        "likeliest": rows[:, -1].astype(np.int32),
        "lengths": own.sum(1).astype(np.int32),
    }


def clean_followed(
    followed: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return next tokens ``[N, T, k + 2]``, all finite, and which samples had others.

    Behind the end of a path they stay NaN, as their last column is there.
    """
    is_bad = ~np.isfinite(followed) & ~np.isnan(followed[..., -1:])
    cleaned: npt.NDArray[np.float32] = np.where(is_bad, FLOOR, followed)
    has_bad: npt.NDArray[np.bool_] = np.asarray(is_bad.any((1, 2)))
    return cleaned, has_bad

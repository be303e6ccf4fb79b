"""Losses of token states: pure functions of what a student and a teacher hold of each token of a
text.

States are ``(B, S, width)``. Both networks read the same tokens, so they have the same ``S``.
``mask`` ``(B, S)`` is false for padding; None if there is no padding. A loss is the mean over
samples of the mean over the sample's own tokens, so neither padding nor the length of other samples
matters; a sample that is all padding counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from attar.pipeline.core.errors import StageError

RELATED = ((0, 0), (1, 1), (2, 2), (0, 1))
"""Queries to queries, keys to keys, values to values, queries to keys."""


def hidden_states(projected: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of the student's projected states and the teacher's.

    Jiao et al. 2020, "TinyBERT", arXiv:1909.10351, eq. 8; of the answers of embedding layers it is
    eq. 9. Padding is left out, which the authors' code counts. Raises StageError for other shapes
    than ``(B, S, width)``, the same on both sides.
    """
    check_states("hidden_states", projected, teacher, mask)
    if projected.shape[2] != teacher.shape[2]:
        raise StageError(
            f"hidden_states compares one width; the student's states are {tuple(projected.shape)} "
            f"after the projection, the teacher's {tuple(teacher.shape)}"
        )
    own = get_own_tokens(teacher, mask)
    differences = (projected - teacher).masked_fill(~own[:, :, None], 0)
    return average_tokens(differences.square().mean(2), own)


def attention_relations(
    student: Tensor,
    teacher: Tensor,
    heads: int,
    shares: Sequence[float],
    mask: Tensor | None = None,
) -> Tensor:
    """Return the weighted sum of the KL divergences of the relations among tokens.

    Queries, keys and values lie next to each other: ``(B, S, 3 width)``; the width may differ
    between the networks. With X and Y two of them, split into ``heads`` parts of d numbers, a
    relation is ``softmax(X Y^T / sqrt(d))`` over the tokens. KL(teacher || student) is its loss,
    the mean over heads and tokens. ``shares`` weigh Q-Q, K-K, V-V and Q-K. Wang et al. 2021,
    "MiniLMv2", arXiv:2012.15828, eq. 5 to 8, has the first three; Wang et al. 2020, "MiniLM",
    arXiv:2002.10957, has V-V and, with the networks' own heads, Q-K. Padding is left out. Raises
    StageError for other shapes.
    """
    check_states("attention_relations", student, teacher, mask)
    check_heads(heads, student.shape[2], teacher.shape[2])
    own = get_own_tokens(teacher, mask)
    p, q = split_heads(student, heads), split_heads(teacher, heads)
    terms = []
    for share, (x, y) in zip(shares, RELATED, strict=True):
        if share:
            student_relation = relate_tokens(p[x], p[y], own)
            teacher_relation = relate_tokens(q[x], q[y], own)
            divergence = compare_relations(student_relation, teacher_relation, own)
            terms.append(share * average_tokens(divergence, own))
    return torch.stack(terms).sum()


def split_heads(projections: Tensor, heads: int) -> Tensor:
    """Return queries, keys and values: ``(B, S, 3 width) -> (3, B, heads, S, width / heads)``."""
    batch, size, width = projections.shape
    return projections.reshape(batch, size, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)


def relate_tokens(x: Tensor, y: Tensor, own: Tensor) -> Tensor:
    """Return the log-probabilities of each token of ``x`` over those of ``y``.

    Both are ``(B, heads, S, d)``; the result is ``(B, heads, S, S)``.
    """
    scores = x @ y.transpose(2, 3) * x.shape[3] ** -0.5
    return functional.log_softmax(
        scores.masked_fill(~own[:, None, None, :], torch.finfo(scores.dtype).min), 3
    )


def compare_relations(student: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
    """Return KL(teacher || student) of each token ``(B, S)``, the mean over heads.

    Both relations are ``(B, heads, S, S)``.
    """
    terms = teacher.exp() * (teacher - student)
    return terms.masked_fill(~own[:, None, None, :], 0).sum(3).mean(1)


def average_tokens(values: Tensor, own: Tensor) -> Tensor:
    """Return the mean over samples of the mean over their own tokens: twice ``(B, S) -> ()``."""
    return (values.masked_fill(~own, 0).sum(1) / own.sum(1).clamp(min=1)).mean()


def get_own_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask; without one all tokens count."""
    if mask is not None:
        return mask
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


def check_states(kind: str, student: Tensor, teacher: Tensor, mask: Tensor | None) -> None:
    """Raises StageError unless both are states of the same tokens."""
    got, wanted = tuple(student.shape), tuple(teacher.shape)
    shapes = f"the student's features are {got}, the teacher's {wanted}"
    if not student.ndim == teacher.ndim == 3:
        raise StageError(
            f"{kind} compares states (batch, sequence, hidden); {shapes}: name layers that answer "
            "token by token, or use hint for rows and for maps of images"
        )
    if student.shape[:2] != teacher.shape[:2]:
        raise StageError(
            f"{kind} compares token by token; {shapes}: name layers where both networks have the "
            "batch first and a state for each of the same tokens"
        )
    if mask is not None and mask.shape != student.shape[:2]:
        raise StageError(
            f"{kind} leaves out padding; {shapes}, the inputs hold {mask.shape[0]} samples of "
            f"{mask.shape[1]} tokens: name layers with the batch first and a state for each token "
            "that is read"
        )


def check_heads(heads: int, *widths: int) -> None:
    """Raises StageError unless queries, keys and values of these widths split into the heads."""
    if any(width % (3 * heads) for width in widths):
        student, teacher = (width // 3 for width in widths)
        divisors = [
            str(n) for n in range(1, min(student, teacher) + 1) if student % n == teacher % n == 0
        ]
        raise StageError(
            f"attention_relations: heads = {heads} must divide both the student's width, "
            f"{student}, and the teacher's, {teacher}; use one of {', '.join(divisors)}"
        )

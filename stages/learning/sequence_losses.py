"""Losses of sequences: pure functions of a student's logits along a path, and what is known of it.

A student's logits are ``(R, size)``, one row for each token of a path, without padding. A
teacher's answer to a row are its ``k`` largest log-probabilities ``(R, k)``, their tokens, and the
log of the mean probability of the others. Student and teacher are compared over ``k + 1`` outcomes:
these tokens, and any other. No tensor of the teacher's has the size of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from attar.stages.learning.losses import logit_pearson

Divergence = Literal["forward", "reverse", "jensen-shannon"]
LARGEST_SHARE = 1 - 1e-6
"""The largest share of the top tokens that leaves a logarithm for the others."""


@dataclass(frozen=True)
class TokenRows:
    """The tokens of a path, of a teacher that only translates."""

    tokens: Tensor
    """``(R,)``"""


@dataclass(frozen=True)
class TeacherRows(TokenRows):
    """The teacher's answers to the rows of a path."""

    values: Tensor
    """``(R, k)``: the largest log-probabilities."""
    indices: Tensor
    """``(R, k)``: their tokens."""
    rest: Tensor
    """``(R,)``: the log of the mean probability of the other tokens."""


@dataclass(frozen=True)
class StudentRows:
    """The student's logits about the rows of a path."""

    logits: Tensor
    """``(R, size)``."""

    @cached_property
    def logs(self) -> Tensor:
        """Its log-probabilities, which all losses of a step share: to compute them costs more than
        the losses."""
        return functional.log_softmax(self.logits, 1)


def word_kd(
    student: StudentRows,
    teacher: TeacherRows,
    temperature: float = 1.0,
    divergence: Divergence = "forward",
) -> Tensor:
    """``T^2`` times the mean divergence of the teacher's and the student's next token.

    With ``forward`` it is KL(teacher || student), word-level distillation (Kim and Rush 2016,
    "Sequence-Level Knowledge Distillation", arXiv:1606.07947, section 3.1); ``reverse`` is
    KL(student || teacher) (Gu et al. 2023, "MiniLLM", arXiv:2306.08543); ``jensen-shannon`` is the
    mean of both sides' KL to their mean (Agarwal et al. 2023, arXiv:2306.13649, section 3, with
    beta = 1/2). At T = 1 the comparison over ``k + 1`` outcomes is exact for what it compares, and
    at most the KL over all tokens. At other temperatures the teacher's other tokens count as
    equally likely.
    """
    expected = group_teacher(teacher, student.logits.shape[1], temperature)
    got = group_student(student, teacher.indices, temperature)
    return DIVERGENCES[divergence](got, expected) * temperature**2


def group_teacher(teacher: TeacherRows, size: int, temperature: float) -> Tensor:
    """Return log-probabilities of the ``k`` tokens and of all others together, ``(R, k + 1)``."""
    others = size - teacher.indices.shape[1]
    if not others:
        return functional.log_softmax(teacher.values / temperature, 1)
    rest = teacher.rest[:, None] / temperature + math.log(others)
    return functional.log_softmax(torch.cat([teacher.values / temperature, rest], 1), 1)


def group_student(student: StudentRows, indices: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities of these tokens and of all others together, ``(R, k + 1)``."""
    is_soft = temperature != 1
    logs = functional.log_softmax(student.logits / temperature, 1) if is_soft else student.logs
    top = logs.gather(1, indices)
    if indices.shape[1] == logs.shape[1]:
        return top
    share = top.exp().sum(1, keepdim=True).clamp(max=LARGEST_SHARE)
    return torch.cat([top, torch.log1p(-share)], 1)


def forward_kl(got: Tensor, expected: Tensor) -> Tensor:
    return functional.kl_div(got, expected, reduction="batchmean", log_target=True)


def reverse_kl(got: Tensor, expected: Tensor) -> Tensor:
    return functional.kl_div(expected, got, reduction="batchmean", log_target=True)


def jensen_shannon(got: Tensor, expected: Tensor) -> Tensor:
    mean = torch.logaddexp(got, expected) - math.log(2)
    return (forward_kl(mean, got) + forward_kl(mean, expected)) / 2


DIVERGENCES: dict[Divergence, Callable[[Tensor, Tensor], Tensor]] = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jensen-shannon": jensen_shannon,
}


def top_pearson(student: StudentRows, teacher: TeacherRows) -> Tensor:
    """1 - CORR: Pearson's r over the teacher's top log-probabilities, each row minus its mean.

    ``proof.comparison.sequences`` calls it ``correlation``; see ``losses.logit_pearson``.
    """
    return logit_pearson(student.logs.gather(1, teacher.indices), teacher.values)


def sequence_kd(student: StudentRows, tokens: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-log p(token)`` of the teacher's translation, the mean over its tokens ``(R,)``.

    Kim and Rush 2016, section 3.2: the teacher's best translation stands for its distribution.
    """
    likelihood = functional.nll_loss(student.logs, tokens)
    return (
        likelihood
        if not smoothing
        else (1 - smoothing) * likelihood - smoothing * student.logs.mean()
    )

"""Distiller: a small network that is trained with the student and is not shipped.

It reads the teacher's answers. For each row (a sample, or a position of a sequence) it reads the
student's features ``f`` [D], through the trunk that it shares with the student, and the teacher's
logits ``t`` [C]:

    h = relu(W3 [relu(W1 f), relu(W2 standardized(t))])           [H]
    d = W4 h                  its logits: the student is compared with softmax(d)
    a = W5 h                  two scores, one for each attention

It learns from the labels, and the student learns from it. With s the student's logits and sg the
stop-gradient:

    L_D  = CE(d, y)                                                its own loss
    L_TA = sum_i w_T(i) KL(softmax(sg d_i) || softmax(s_i)) / B     Teacher Attention
    L_SA = sum_i w_S(i) KL(softmax(sg d_i) || softmax(s_i)) / B     Student Attention
    w    = floor + (1 - floor) B softmax(a)                         over the batch: mean 1
    L_C  = r_T L_TA + r_S L_SA              r_T + r_S = 1; an attention that is off has share 0;
                                            if both are off, L_C is the mean of the KL

The shares are 1/2 each by default if both are on. As every w has the mean 1, the comparison of the
student with the distiller has the same weight with none, one or both attentions: they move weight
between samples, and add none.

The attentions are supervised. Teacher Attention learns where the teacher is wrong on this view,
n_T(i) = CE(t_i, y_i). Student Attention learns where the student differs from the distiller,
n_S(i) = KL(softmax(d_i) || softmax(s_i)):

    L_A = (r_T CE(n_T / sum n_T, softmax(a_T)) + r_S CE(n_S / sum n_S, softmax(a_S))) / log B

Here n has no gradient. Of both attentions, even needs and even weights give 1.

Together L_KD gains weight * L_C + L_D + L_A.

In two steps (``pretraining``) the distiller has a copy of the student's layers of its own. First
L_D alone is minimized, and the student is not trained. Then the distiller is frozen but for W5, and
L_KD gains weight * L_C + L_A: what the attentions learn from is known only then.

Why it is built so:
- Labels are in the distiller's loss and not among its inputs. As an input it would copy them, and
  ignore the student.
- Both terms have the distiller as their target. Weighing the teacher's mistakes more with the
teacher as the target would teach these mistakes.
- The target has no gradient. With one the distiller would move towards the student.
- Weights that are learned by minimizing the weighted loss move to the easy samples. These weights
  are learned from the needs n instead, have the mean 1, and the floor bounds their entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.stages.learning.losses import standardize_logits

TINY = 1e-12


class Distiller(nn.Module):
    """``features`` D, ``classes`` C, ``hidden`` H; see the module's docstring."""

    def __init__(self, features: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.student = nn.Linear(features, hidden)
        self.teacher = nn.Linear(classes, hidden)
        self.both = nn.Linear(2 * hidden, hidden)
        self.logits = nn.Linear(hidden, classes)
        self.attention = nn.Linear(hidden, 2)

    def forward(
        self, features: Tensor, teacher: Tensor, *, frozen: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``[R, C]`` and scores ``[R, 2]``.

        ``features`` are ``[R, D]``, the teacher's logits ``[R, C]``. If it is ``frozen`` only the
        layer of the scores has a gradient.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            student_part = torch.relu(self.student(features))  # (R, H)
            teacher_part = torch.relu(self.teacher(standardize_logits(teacher)))  # (R, H)
            hidden = torch.relu(self.both(torch.cat([student_part, teacher_part], -1)))  # (R, H)
            logits = self.logits(hidden)
        return logits, self.attention(hidden)


@dataclass(frozen=True)
class DistillerTerms:
    """The distiller's terms of L_KD for one batch, and the values to log."""

    own: Tensor
    """L_D."""
    compared: Tensor
    """L_C."""
    supervision: Tensor
    """L_A; 0 without attention."""
    logged: dict[str, Tensor]


def compute_terms(
    logits: Tensor,
    scores: Tensor,
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    shares: tuple[float, float],
    floor: float,
) -> DistillerTerms:
    """Return the terms for one batch of one process.

    ``logits`` and ``scores`` are the distiller's. ``student`` and ``teacher`` are logits
    ``[R, C]``, and ``labels`` are ``[R]``. ``shares`` of Teacher and Student Attention sum to 1, or
    both are 0.
    """
    divergence = compute_divergences(logits.detach(), student)  # (R,)
    needs = (F.cross_entropy(teacher, labels, reduction="none"), divergence.detach())
    compared, supervision, logged = [], logits.new_zeros(()), dict[str, Tensor]()
    wrong = teacher.argmax(-1) != labels
    for which, name in enumerate(("teacher_attention", "student_attention")):
        if share := shares[which]:
            weights = compute_weights(scores[:, which], floor)
            compared.append(share * (weights.detach() * divergence).mean())
            supervision = supervision + share * compute_supervision(scores[:, which], needs[which])
            logged |= describe_weights(name, weights.detach(), wrong)
    logged["distiller_score"] = compute_accuracy(logits, labels)
    logged["distiller_kdl"] = divergence.detach().mean()
    total = torch.stack(compared).sum() if compared else divergence.mean()
    return DistillerTerms(F.cross_entropy(logits, labels), total, supervision, logged)


def compute_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(-1) == labels).float().mean()


def compute_weights(scores: Tensor, floor: float) -> Tensor:
    """Return ``floor + (1 - floor) R softmax(scores)`` over the rows ``[R]``. Their mean is 1."""
    return floor + (1 - floor) * len(scores) * torch.softmax(scores, 0)


def compute_supervision(scores: Tensor, need: Tensor) -> Tensor:
    """Return CE(need / sum need, softmax(scores)) over R rows, divided by log R.

    It is 1 if both are uniform.
    """
    share = (need + TINY) / (need + TINY).sum()
    return -(share * torch.log_softmax(scores, 0)).sum() / max(math.log(len(scores)), TINY)


def compute_divergences(target: Tensor, student: Tensor) -> Tensor:
    """Return KL(softmax(target) || softmax(student)) of each row, ``[R, C] -> [R]``."""
    p, q = torch.log_softmax(target, -1), torch.log_softmax(student, -1)
    return (p.exp() * (p - q)).sum(-1)


def describe_weights(name: str, weights: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """Return the relative entropy of the weights, and their mean where the teacher is wrong.

    The entropy is divided by that of even weights. The mean is NaN if the teacher is right
    everywhere.
    """
    share = weights / weights.sum()
    entropy = -(share * share.log()).sum() / max(math.log(len(weights)), TINY)
    on_wrong = weights.masked_fill(~wrong, 0).sum() / wrong.sum()
    return {f"{name}_entropy": entropy, f"{name}_on_wrong": on_wrong}

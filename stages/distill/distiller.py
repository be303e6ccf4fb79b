"""Distiller: a small network that is trained beside the student, sees what the teacher answers, and is not shipped.

For each row (a sample, or a position of a sequence) it reads the student's features ``f`` [D], through the trunk that it shares
with the student, and the teacher's logits ``t`` [C]:

    h = relu(W3 [relu(W1 f), relu(W2 standardized(t))])           [H]
    d = W4 h                  its logits: softmax(d) is the distribution that the student is compared with
    a = W5 h                  two scores, one for each attention

It learns from the labels, and the student learns from it. With s the student's logits and sg the stop-gradient:

    L_D  = CE(d, y)                                                its own loss
    L_TA = sum_i w_T(i) KL(softmax(sg d_i) || softmax(s_i)) / B     Teacher Attention
    L_SA = sum_i w_S(i) KL(softmax(sg d_i) || softmax(s_i)) / B     Student Attention
    w    = floor + (1 - floor) B softmax(a)                         over the batch: mean 1, none below the floor
    L_C  = r_T L_TA + r_S L_SA          r_T + r_S = 1; one that is off has share 0, without any L_C is the mean of the KL

The shares are 1/2 each by default where both are on. As every w has the mean 1, what compares the student with the distiller
weighs the same with none, one or both attentions: they move the weight between samples, and add none.

The attentions are supervised. Teacher Attention learns where the teacher is wrong on this very view, n_T(i) = CE(t_i, y_i);
Student Attention learns where the student is not yet what the distiller believes, n_S(i) = KL(softmax(d_i) || softmax(s_i)):

    L_A = r_T CE(n_T / sum n_T, softmax(a_T)) + r_S CE(n_S / sum n_S, softmax(a_S))      n without a gradient

Together L_KD gains weight * L_C + L_D + L_A.

What would go wrong otherwise:
- Labels are in the distiller's loss and not among its inputs: there it would learn the identity and say nothing of the student.
- Both terms have the distiller as their target. To lean on the teacher's mistakes with the teacher as target would teach them.
- The target has no gradient: else the distiller would meet the student half-way.
- A weight that is learned by minimising the weighted loss moves to the easy samples. These are learned from the needs instead,
  have the mean 1, and the floor bounds their entropy from below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.stages.learning.losses import standardized

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

    def forward(self, features: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of features ``[R, D]`` and of teacher's logits ``[R, C]`` to logits ``[R, C]`` and scores ``[R, 2]``."""
        read = torch.relu(self.student(features))  # (R, H)
        heard = torch.relu(self.teacher(standardized(teacher)))  # (R, H)
        hidden = torch.relu(self.both(torch.cat([read, heard], -1)))  # (R, H)
        return self.logits(hidden), self.attention(hidden)


@dataclass(frozen=True)
class Terms:
    """What one batch adds to L_KD, and what is logged of it."""

    own: Tensor
    """L_D."""
    compared: Tensor
    """L_C."""
    supervision: Tensor
    """L_A; 0 without attention."""
    logged: dict[str, float]


def terms(
    logits: Tensor, scores: Tensor, student: Tensor, teacher: Tensor, labels: Tensor, shares: tuple[float, float], floor: float
) -> Terms:
    """``logits`` and ``scores`` of the distiller, logits of ``student`` and ``teacher`` ``[R, C]``, ``labels`` ``[R]``.

    ``shares`` of Teacher and Student Attention: they sum to 1, or are both 0. Batch-level, and so of one process's batch.
    """
    divergence = divergences(logits.detach(), student)  # (R,)
    needs = (F.cross_entropy(teacher, labels, reduction="none"), divergence.detach())
    compared, supervision, logged = [], logits.new_zeros(()), dict[str, float]()
    wrong = teacher.argmax(-1) != labels
    for which, name in enumerate(("teacher_attention", "student_attention")):
        if share := shares[which]:
            weights = attention(scores[:, which], floor)
            compared.append(share * (weights.detach() * divergence).mean())
            supervision = supervision + share * supervised(scores[:, which], needs[which])
            logged |= described(name, weights.detach(), wrong)
    logged["distiller_score"] = float((logits.argmax(-1) == labels).float().mean())
    logged["distiller_kdl"] = float(divergence.detach().mean())
    total = torch.stack(compared).sum() if compared else divergence.mean()
    return Terms(F.cross_entropy(logits, labels), total, supervision, logged)


def attention(scores: Tensor, floor: float) -> Tensor:
    """``floor + (1 - floor) R softmax(scores)`` over the rows ``[R]``: mean 1, none below the floor."""
    return floor + (1 - floor) * len(scores) * torch.softmax(scores, 0)


def supervised(scores: Tensor, need: Tensor) -> Tensor:
    """The cross-entropy of the distribution of the need over the rows with that of the scores, over log R: 1 when uniform."""
    share = (need + TINY) / (need + TINY).sum()
    return -(share * torch.log_softmax(scores, 0)).sum() / max(math.log(len(scores)), TINY)


def divergences(target: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(target) || softmax(student)) of each row, ``[R, C] -> [R]``."""
    p, q = torch.log_softmax(target, -1), torch.log_softmax(student, -1)
    return (p.exp() * (p - q)).sum(-1)


def described(name: str, weights: Tensor, wrong: Tensor) -> dict[str, float]:
    """How uneven the weights are (their entropy over that of even ones), and the mean weight where the teacher is wrong."""
    share = weights / weights.sum()
    entropy = -float((share * share.log()).sum()) / max(math.log(len(weights)), TINY)
    found = {f"{name}_entropy": entropy}
    return found | ({f"{name}_on_wrong": float(weights[wrong].mean())} if bool(wrong.any()) else {})

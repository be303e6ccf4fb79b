"""Losses of outputs: pure functions of tensors. ``choices`` holds the settings that a recipe picks them by.

Logits are ``(B, ..., classes)``; the positions of a sequence count as rows of their own, ``(rows, classes)``. Every loss is a
mean over rows, so it does not grow with the batch. Gradients reach both sides: a caller that trains the student alone gives
the teacher without one.

A constant has no correlation with anything (Pearson's r is 0/0). As in ``proof.metrics`` its r is 0; its gradient is 0 too, so
constant logits learn nothing from a correlation alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ROUNDING = 16  # times the precision of the type, of the largest magnitude: what is left of a constant without its mean


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over all axes but the last.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: soft targets give
    gradients of size 1/T^2, so T^2 keeps their share when the temperature is changed. On ``standardized`` logits it is the
    loss of Sun et al. 2024.
    """
    expected = functional.log_softmax(rows(teacher) / temperature, -1)
    return divergence(functional.log_softmax(rows(student) / temperature, -1), expected) * temperature**2


def standardized(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1; 0 where it is constant.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, algorithm 1 with tau = 1 (``kd``
    divides by the temperature): the student learns the relations of the teacher's logits, not their magnitude. The deviation
    is the population's, as in the paper; the authors' code takes the sample's, larger by sqrt(classes / (classes - 1)).
    """
    return unit(deviations(logits, -1), -1) * math.sqrt(logits.shape[-1])


def dkd(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """``T^2 * (alpha * TCKD + beta * NCKD)``, the mean over rows; ``labels`` ``(B, ...)`` are class indices.

    Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679, eq. 7. TCKD compares the probability of the label
    with that of all other classes together, NCKD compares the other classes among themselves. KD is their sum with
    alpha = 1 and, in each row, beta = 1 - the teacher's probability of the label (eq. 6): where the teacher is sure, KD
    hardly passes on what it knows of the other classes.
    """
    label, others = decoupled(student, labels, temperature)
    expected_label, expected_others = decoupled(teacher, labels, temperature)
    tckd, nckd = divergence(label, expected_label), divergence(others, expected_others)
    return (alpha * tckd + beta * nckd) * temperature**2


def decoupled(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of (label, all others) ``(rows, 2)``, and of the others alone ``(rows, classes - 1)``."""
    logs = functional.log_softmax(rows(logits) / temperature, -1)
    label = labels.reshape(-1, 1)
    columns = torch.arange(logs.shape[1] - 1, device=logs.device)
    others = logs.gather(1, columns + (columns >= label))  # from the label's column on, one further
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([logs.gather(1, label), rest], -1), others - rest


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """``T^2 * (beta * inter + gamma * intra)``: 1 - Pearson's r over softened probabilities, mean over rows and over columns.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536, L_inter (the classes of one sample)
    and L_intra (the samples of one class). T^2 is not in the paper's formulas but in the authors' code.

    Per process: a column is the samples of this process's batch. Of one row a column is constant (intra is 1, without
    gradient); of two rows its r is 1 or -1. Intra learns from three rows on.
    """
    p, q = (functional.softmax(rows(logits) / temperature, -1) for logits in (student, teacher))
    inter, intra = (1 - correlations(p, q, axis).mean() for axis in (1, 0))
    return (beta * inter + gamma * intra) * temperature**2


def logit_pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CORR: Pearson's r over all logits of the batch together, each row without its mean; in [0, 2].

    What ``proof.metrics.compare`` calls ``correlation``. Per process: it is that of this process's batch, and the mean over
    batches is not the CORR of all samples.
    """
    p, q = (deviations(rows(logits), -1).reshape(1, -1) for logits in (student, teacher))
    return 1 - correlations(p, q, 1).squeeze()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference over all entries (for logits: Ba and Caruana 2014, arXiv:1312.6184, eq. 1)."""
    return (student - teacher).square().mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos between the student's and the teacher's vector ``(B, dimensions)`` of a sample, the mean over samples; in [0, 2].

    Half the squared distance of the two on the unit sphere. Sanh et al. 2019, "DistilBERT", arXiv:1910.01108, section 2, L_cos,
    there of hidden states. A vector of zeros has cosine 0 with all, and gradient 0.
    """
    return 1 - (unit(student, -1) * unit(teacher, -1)).sum(-1).mean()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-log softmax(logits)[label]``, the mean over all axes but the last; ``labels`` are class indices.

    ``smoothing`` gives that share of the target to all classes alike (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    return functional.cross_entropy(rows(logits), labels.flatten(), label_smoothing=smoothing)


def rows(logits: Tensor) -> Tensor:
    return logits.flatten(0, -2)  # (B, ..., classes) -> (rows, classes)


def divergence(got: Tensor, expected: Tensor) -> Tensor:
    """KL(expected || got) of log-probabilities ``(rows, classes)``, the mean over rows."""
    return functional.kl_div(got, expected, reduction="batchmean", log_target=True)


def correlations(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Pearson's r of ``x`` and ``y`` ``(rows, columns)`` along ``axis``; 0, with gradient 0, where one is constant."""
    return (unit(deviations(x, axis), axis) * unit(deviations(y, axis), axis)).sum(axis)


def deviations(x: Tensor, axis: int) -> Tensor:
    """``x`` minus its mean along ``axis``; exactly 0, with gradient 0, where only rounding is left of a constant."""
    left = x - x.mean(axis, keepdim=True)
    rounding = ROUNDING * torch.finfo(x.dtype).eps * largest(x, axis)
    return left.masked_fill(largest(left, axis) <= rounding, 0)


def unit(x: Tensor, axis: int) -> Tensor:
    """``x`` over its Euclidean norm along ``axis``; 0, with gradient 0, where it vanishes.

    Dividing by the largest entry first keeps the squares in range.
    """
    size = largest(x, axis)
    vanishes = size <= smallest(x.dtype)
    scaled = x.masked_fill(vanishes, 0) / size.masked_fill(vanishes, 1)
    return scaled / scaled.square().sum(axis, keepdim=True).masked_fill(vanishes, 1).sqrt()


def largest(x: Tensor, axis: int) -> Tensor:
    """The largest magnitude along ``axis``, as a constant."""
    return x.detach().abs().amax(axis, keepdim=True)


def smallest(dtype: torch.dtype) -> float:
    """What is not larger vanishes: 1/x, a gradient's size, would leave the range of the type (1e-31 in float32)."""
    return torch.finfo(dtype).tiny / torch.finfo(dtype).eps

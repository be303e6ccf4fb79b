"""Losses of outputs: pure functions of tensors. ``loss_settings`` holds their settings in a recipe.

Logits are ``(B, ..., classes)``. The positions of a sequence count as rows: ``(rows, classes)``.
Every loss is a mean over rows, so it does not grow with the batch. Gradients reach both arguments:
a caller that trains only the student passes the teacher's tensor without a gradient.

A constant has no correlation with anything (Pearson's r is 0/0). As in ``proof.estimates.metrics``
its r is 0. Its gradient is 0 too, so constant logits learn nothing from a correlation alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ROUNDING_EPSILONS = 16
"""A constant minus its mean is at most this many epsilons of its largest magnitude."""


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over rows.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2:
    soft targets give gradients of size 1/T^2, so T^2 keeps their share when the temperature is
    changed. On ``standardize_logits`` logits it is the loss of Sun et al. 2024.
    """
    expected = functional.log_softmax(flatten_rows(teacher) / temperature, -1)
    got = functional.log_softmax(flatten_rows(student) / temperature, -1)
    return kl_divergence(got, expected) * temperature**2


def standardize_logits(logits: Tensor) -> Tensor:
    """Return each row with mean 0 and standard deviation 1; 0 if it is constant.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, algorithm
    1 with tau = 1 (``kd`` divides by the temperature): the student learns the relations of the
    teacher's logits, not their magnitude. The deviation is the population's, as in the paper; the
    authors' code takes the sample's, larger by sqrt(classes / (classes - 1)).
    """
    return scale_to_unit_norm(subtract_mean(logits, -1), -1) * math.sqrt(logits.shape[-1])


def dkd(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """``T^2 * (alpha * TCKD + beta * NCKD)``, the mean over rows.

    ``labels`` ``(B, ...)`` are class indices.

    Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679, eq. 7. TCKD compares the
    probability of the label with that of all other classes together, NCKD compares the other
    classes among themselves. KD is their sum with alpha = 1 and, in each row, beta = 1 - the
    teacher's probability of the label (eq. 6): where the teacher is sure, KD hardly passes on what
    it knows of the other classes.
    """
    label, others = decouple_label(student, labels, temperature)
    expected_label, expected_others = decouple_label(teacher, labels, temperature)
    tckd, nckd = kl_divergence(label, expected_label), kl_divergence(others, expected_others)
    return (alpha * tckd + beta * nckd) * temperature**2


def decouple_label(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return two log-probabilities: of the label and all other classes together ``(rows, 2)``, and
    of the other classes among themselves ``(rows, classes - 1)``."""
    logs = functional.log_softmax(flatten_rows(logits) / temperature, -1)
    label = labels.reshape(-1, 1)
    columns = torch.arange(logs.shape[1] - 1, device=logs.device)
    others = logs.gather(1, columns + (columns >= label))  # from the label's column on, one further
    rest = others.logsumexp(-1, keepdim=True)
    return torch.cat([logs.gather(1, label), rest], -1), others - rest


def dist(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """``T^2 * (beta * inter + gamma * intra)``.

    Both terms are 1 - Pearson's r of softened probabilities: the means over rows and over columns.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536, L_inter
    (the classes of one sample) and L_intra (the samples of one class). T^2 is not in the paper's
    formulas but in the authors' code.

    Per process: a column is the samples of this process's batch. Of one row a column is constant
    (intra is 1, without gradient); of two rows its r is 1 or -1. Intra learns from three rows on.
    """
    p = functional.softmax(flatten_rows(student) / temperature, -1)
    q = functional.softmax(flatten_rows(teacher) / temperature, -1)
    inter, intra = (1 - compute_correlations(p, q, axis).mean() for axis in (1, 0))
    return (beta * inter + gamma * intra) * temperature**2


def logit_pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CORR: Pearson's r over all logits of the batch, each row minus its mean; in [0, 2].

    ``proof.estimates.metrics`` calls it ``correlation``. Per process: it is computed over the
    batch of this process, and the mean over batches is not the CORR of all samples.
    """
    p, q = (subtract_mean(flatten_rows(logits), -1).reshape(1, -1) for logits in (student, teacher))
    return 1 - compute_correlations(p, q, 1).squeeze()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference over all entries.

    For logits: Ba and Caruana 2014, arXiv:1312.6184, eq. 1.
    """
    return (student - teacher).square().mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos of the student's and the teacher's vector ``(B, dimensions)``, mean over samples.

    It is half the squared distance of the two on the unit sphere. Sanh et al. 2019, "DistilBERT",
    arXiv:1910.01108, section 2, L_cos, there of hidden states. A vector of zeros has cosine 0 with
    every vector, and gradient 0.
    """
    return 1 - (scale_to_unit_norm(student, -1) * scale_to_unit_norm(teacher, -1)).sum(-1).mean()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-log softmax(logits)[label]``, the mean over rows; ``labels`` are class indices.

    ``labels`` of mixed samples are the probabilities of all classes ``(B, ..., classes)`` instead,
    and the loss is their cross-entropy. ``smoothing`` gives that share of the target to all classes
    alike (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    rows = flatten_rows(logits)
    wanted = flatten_rows(labels) if labels.is_floating_point() else labels.flatten()
    return functional.cross_entropy(rows, wanted, label_smoothing=smoothing)


def binary_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-log`` of the probability of each 0 or 1 in ``labels`` ``(B, labels)``, the mean over all.

    The sigmoid of a logit is the probability of a 1. ``smoothing`` moves that share of each target
    to 1/2, as ``cross_entropy`` does with two classes.
    """
    targets = labels.float() * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, targets)


def binary_kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2`` times KL(Bernoulli(sigmoid(teacher / T)) || Bernoulli(sigmoid(student / T))), the
    mean over the entries of ``(B, labels)``.

    Yang et al. 2023, "Multi-Label Knowledge Distillation", arXiv:2308.06453, L_MLD: each label is a
    distillation of its own between yes and no. There it is the sum over labels and without a
    temperature; the mean has the size of ``binary_cross_entropy``. It is ``kd`` of the two logits 0
    and z.
    """
    p, q = teacher / temperature, student / temperature
    terms = [
        sign.sigmoid() * (functional.logsigmoid(sign) - functional.logsigmoid(other))
        for sign, other in ((p, q), (-p, -q))
    ]
    return (terms[0] + terms[1]).mean() * temperature**2


def label_pearson(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CORR of a multilabel output ``(B, labels)``: Pearson's r over all logits of the batch,
    each label minus its mean; in [0, 2].

    ``proof.estimates.metrics`` calls it ``correlation``. Per process and batch, as
    ``logit_pearson``. One row alone is constant, and teaches nothing.
    """
    p, q = (subtract_mean(logits, 0).reshape(1, -1) for logits in (student, teacher))
    return 1 - compute_correlations(p, q, 1).squeeze()


def flatten_rows(logits: Tensor) -> Tensor:
    """Return the rows: ``(B, ..., classes) -> (rows, classes)``."""
    return logits.flatten(0, -2)


def kl_divergence(got: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected || got) of log-probabilities ``(rows, classes)``, the mean over rows."""
    return functional.kl_div(got, expected, reduction="batchmean", log_target=True)


def compute_correlations(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return Pearson's r of ``x`` and ``y`` ``(rows, columns)`` along ``axis``.

    If one of them is constant it is 0, with gradient 0.
    """
    p, q = (scale_to_unit_norm(subtract_mean(z, axis), axis) for z in (x, y))
    return (p * q).sum(axis)


def subtract_mean(x: Tensor, axis: int) -> Tensor:
    """Return ``x`` minus its mean along ``axis``.

    It is exactly 0, with gradient 0, where only rounding errors of a constant are left.
    """
    left = x - x.mean(axis, keepdim=True)
    rounding = ROUNDING_EPSILONS * torch.finfo(x.dtype).eps * max_magnitude(x, axis)
    return left.masked_fill(max_magnitude(left, axis) <= rounding, 0)


def scale_to_unit_norm(x: Tensor, axis: int) -> Tensor:
    """Return ``x`` divided by its Euclidean norm along ``axis``; 0, with gradient 0, if that is 0.

    Dividing by the largest entry first keeps the squares in range.
    """
    size = max_magnitude(x, axis)
    vanishes = size <= min_divisor(x.dtype)
    scaled = x.masked_fill(vanishes, 0) / size.masked_fill(vanishes, 1)
    return scaled / scaled.square().sum(axis, keepdim=True).masked_fill(vanishes, 1).sqrt()


def max_magnitude(x: Tensor, axis: int) -> Tensor:
    """Return the largest magnitude along ``axis``, without a gradient."""
    return x.detach().abs().amax(axis, keepdim=True)


def min_divisor(dtype: torch.dtype) -> float:
    """Return the largest number that counts as 0 in a divisor: 1e-31 in float32.

    The gradient of 1/x for a smaller x would leave the range of the type.
    """
    return torch.finfo(dtype).tiny / torch.finfo(dtype).eps

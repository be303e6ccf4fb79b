"""Losses of features: pure functions of the outputs of a student's and a teacher's layer.

Both layers read the same samples. Features are ``(B, ...)``; ``rkd``, ``similarity`` and
``attention`` compare networks of any width. Gradients reach both arguments: a caller that trains
only the student passes the teacher's features without a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.pipeline.core.errors import StageError
from attar.stages.learning.losses import min_divisor, mse, scale_to_unit_norm, subtract_mean


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Huber's loss of the relative distances of samples, the mean over pairs.

    Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, section 3.2.1: a
    distance counts over the mean distance of its batch, so neither width nor scale of the features
    matters. Per process: the pairs are those of this process's batch. Of one or two samples the
    loss is 0: one relative distance is always 1.
    """
    pairs = len(student) * (len(student) - 1)
    p, q = compute_relative_distances(student), compute_relative_distances(teacher)
    return sum_huber(p, q) / max(1, pairs)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Return Huber's loss of the cosines of angles, the mean over triples of samples.

    The angle of i, j, k is the one at j. Park et al. 2019, arXiv:1904.05068, section 3.2.2. Per
    process: the triplets are those of this process's batch. Of one or two samples the loss is 0.
    Takes memory for B^3 numbers, whatever the width.
    """
    triples = len(student) * (len(student) - 1) * (len(student) - 2)
    p, q = compute_angle_cosines(student), compute_angle_cosines(teacher)
    return sum_huber(p, q) / max(1, triples)


def sum_huber(got: Tensor, expected: Tensor) -> Tensor:
    """Return the sum over differences d: of d^2 / 2 if ``|d| <= 1``, else of ``|d| - 1/2``."""
    return functional.huber_loss(got, expected, reduction="sum")


def compute_relative_distances(features: Tensor) -> Tensor:
    """Return Euclidean distances of samples ``(B, B)``, divided by their mean over pairs.

    All 0, with gradient 0, where all samples are one point. At distance 0 the gradient is 0.
    """
    points = subtract_mean(features.flatten(1), 0)
    # Not as |a|^2 - 2ab + |b|^2: that cancels for near points, and has no gradient at 0.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / max(1, len(points) * (len(points) - 1))
    return distances / mean.masked_fill(mean <= min_divisor(mean.dtype), 1)


def compute_angle_cosines(features: Tensor) -> Tensor:
    """Return cosines ``(B, B, B)``: at [j, i, k] that of the angle at j between i and k.

    It is 0 if i is k. They follow from the law of cosines. If i or k is closer to j than
    sqrt(precision) of the mean distance, rounding would decide the angle; the cosine is then 0 with
    gradient 0.
    """
    distances = compute_relative_distances(features)
    squares = distances.square()
    ratio = (squares[:, :, None] + squares[:, None, :] - squares) / 2  # |ji|^2 + |jk|^2 - |ik|^2
    sides = distances[:, :, None] * distances[:, None, :]
    apart = distances > torch.finfo(distances.dtype).eps ** 0.5
    same = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    undefined = ~(apart[:, :, None] & apart[:, None, :]) | same
    return ratio.masked_fill(undefined, 0) / sides.masked_fill(undefined, 1)


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the similarities of the samples of a batch.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682, eq. 4:
    similarities are the inner products of features ``(B, B)``, each row over its norm. Per process:
    the samples are those of this process's batch. Of one sample the loss is 0. A sample whose
    features are all 0 is similar to none, and has gradient 0.
    """
    p, q = student.flatten(1), teacher.flatten(1)
    return mse(scale_to_unit_norm(p @ p.T, 1), scale_to_unit_norm(q @ q.T, 1))


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the squared distance of two attention maps, the mean over samples.

    Features are ``(B, channels, height, width)``.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928, eq. 2 for
    one pair of layers, with F_sum^2: a map is the sum over channels of squares, over its norm. The
    distance is squared, as in the authors' code, which takes the mean over positions too: its beta
    is a weight of 2 * beta / positions here. Both maps are averaged down to the smaller size on
    each axis: the maps, since features of either sign would cancel.

    Maps of volumes ``(B, channels, depth, height, width)`` are compared in the same way. A map that
    is all 0 has gradient 0. Raises StageError for features of other numbers of axes: of three axes
    it is not known which one is the channels.
    """
    if not 4 <= student.ndim == teacher.ndim <= 5:
        raise StageError(
            "attention compares maps (batch, channels, height, width); the student's features are "
            f"{tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: name other layers, or "
            "use hidden_states or attention_relations for states (batch, sequence, hidden), and "
            "hint, similarity or rkd for rows (batch, features)"
        )
    p, q = (features.square().sum(1, keepdim=True) for features in (student, teacher))
    size = [min(sizes) for sizes in zip(p.shape[2:], q.shape[2:], strict=True)]
    p, q = (functional.interpolate(energy, size, mode="area").flatten(1) for energy in (p, q))
    p, q = scale_to_unit_norm(p, 1), scale_to_unit_norm(q, 1)
    return (p - q).square().sum(1).mean() / 2


def hint(regressed: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of a regressor's output for the student and the teacher.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, eq. 3 (a mean instead
    of half the sum, so that width does not matter). Raises StageError where the shapes differ:
    broadcasting would compare the wrong entries.
    """
    if regressed.shape != teacher.shape:
        raise StageError(
            "hint compares equal shapes; the student's features are "
            f"{tuple(regressed.shape)} after the regressor, the teacher's {tuple(teacher.shape)}"
        )
    return mse(regressed, teacher)


def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of features ``(B, width)``.

    Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001,
    eq. 3, of means over positions (the authors' code compares the maps before). The student's are
    those of its own projector, behind which the teacher's classifier stands. Raises StageError for
    another width: the classifier would not fit.
    """
    if student.shape != teacher.shape:
        raise StageError(
            f"simkd: the student's projector answers {student.shape[1]} numbers a sample, and the "
            f"teacher's layer {teacher.shape[1]}, which its head reads; give the student's network "
            f"a projector of {teacher.shape[1]}, or use vkd or hint, which project themselves"
        )
    return mse(student, teacher)


def vkd(projected: Tensor, normalized: Tensor) -> Tensor:
    """Return the smooth L1 distance of projected and normalised features ``(B, width)``.

    It is the mean over numbers of ``d^2 / 2`` if ``|d| <= 1``, else of ``|d| - 1/2``. Miles et al.
    2024, "VkD: Improving Knowledge Distillation using Orthogonal Projections", arXiv:2403.06213, as
    the authors' code has it for classification: the student's features are projected orthogonally
    and not normalised, the teacher's are normalised.
    """
    return functional.smooth_l1_loss(projected, normalized)


def standardize_features(features: Tensor) -> Tensor:
    """Return features ``(B, width)`` of which each row has the mean 0 and the variance 1."""
    return functional.layer_norm(features, features.shape[1:])


SHRINKAGE = 1e-3
"""The share of the mean variance in a covariance that is inverted: of fewer samples than numbers it
has no inverse."""


def whiten_features(features: Tensor) -> Tensor:
    """Return features ``(B, width)`` whose numbers are uncorrelated and have the variance 1.

    The covariance of the batch is shrunk to ``(1 - s) C + s tr(C) / width I`` and inverted by
    Cholesky's decomposition (Ermolov et al. 2021, arXiv:2007.06346, section 3.2). Without any
    variance all are 0. Per process: the samples are those of this process's batch, of which there
    should be several times as many as numbers.
    """
    centered = features - features.mean(0)
    covariance = centered.T @ centered / max(1, len(features) - 1)
    mean = covariance.diagonal().mean().clamp(min=min_divisor(features.dtype))
    identity = torch.eye(len(covariance), dtype=features.dtype, device=features.device)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * mean * identity
    factor, _ = torch.linalg.cholesky_ex(shrunk)  # `cholesky` waits for a GPU to say if it failed
    whitened: Tensor = torch.linalg.solve_triangular(factor, centered.T, upper=False).T
    return whitened

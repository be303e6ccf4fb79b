"""Losses of features: pure functions of what a layer of the student and one of the teacher answer to the same samples.

Features are ``(B, ...)``; all but ``hint`` compare networks of any width. Gradients reach both sides: a caller that trains the
student alone gives the teacher's features without one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from attar.pipeline.errors import StageError
from attar.stages.distillation.losses import deviations, mse, smallest, unit


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of the relative distances between samples, the mean over pairs of different samples.

    Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, section 3.2.1: a distance counts over the mean
    distance of its batch, so neither width nor scale of the features matters. Per process: the pairs are those of this
    process's batch. Of one or two samples the loss is 0: one relative distance is always 1.
    """
    pairs = len(student) * (len(student) - 1)
    return huber(relative_distances(student), relative_distances(teacher)) / max(1, pairs)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber's loss of the cosines of the angles that samples i, j, k make at j, the mean over three different samples.

    Park et al. 2019, arXiv:1904.05068, section 3.2.2. Per process: the triplets are those of this process's batch. Of one or
    two samples the loss is 0. Takes memory for B^3 numbers, whatever the width.
    """
    count = len(student)
    return huber(cosines(student), cosines(teacher)) / max(1, count * (count - 1) * (count - 2))


def huber(got: Tensor, expected: Tensor) -> Tensor:
    """The sum of d^2 / 2 where ``|d| <= 1``, of ``|d| - 1/2`` elsewhere, d the difference."""
    return functional.huber_loss(got, expected, reduction="sum")


def relative_distances(features: Tensor) -> Tensor:
    """Euclidean distances between samples ``(B, B)`` over their mean over pairs of different samples.

    All 0, with gradient 0, where all samples are one point. At distance 0 the gradient is 0.
    """
    points = deviations(features.flatten(1), 0)
    # Differences, not |a|^2 - 2ab + |b|^2: that cancels for near points, and its root has no gradient at 0.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances.sum() / max(1, len(points) * (len(points) - 1))
    return distances / mean.masked_fill(mean <= smallest(mean.dtype), 1)


def cosines(features: Tensor) -> Tensor:
    """Cosines ``(B, B, B)``, at [j, i, k] that of the angle at j between i and k, by the law of cosines; 0 where i is k.

    An angle needs sides: where i or k is nearer to j than sqrt(precision) of the mean distance, rounding would decide it, and
    the cosine is 0 with gradient 0.
    """
    distances = relative_distances(features)
    squares = distances.square()
    ratio = (squares[:, :, None] + squares[:, None, :] - squares) / 2  # |ji|^2 + |jk|^2 - |ik|^2
    sides = distances[:, :, None] * distances[:, None, :]
    apart = distances > torch.finfo(distances.dtype).eps ** 0.5
    none = ~(apart[:, :, None] & apart[:, None, :]) | torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return ratio.masked_fill(none, 0) / sides.masked_fill(none, 1)


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of how similar the samples of a batch are to each other.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682, eq. 4: similarities are the inner
    products of features ``(B, B)``, each row over its norm. Per process: the samples are those of this process's batch. Of
    one sample the loss is 0. A sample whose features are all 0 is similar to none, and has gradient 0.
    """
    p, q = (unit(points @ points.T, 1) for points in (student.flatten(1), teacher.flatten(1)))
    return mse(p, q)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of the two attention maps, the mean over samples; features ``(B, channels, height, width)``.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928, eq. 2 for one pair of layers, with
    F_sum^2: a map is the sum over channels of squares, over its norm. The distance is squared, as in the authors' code, which
    takes the mean over positions too: its beta is a weight of 2 * beta / positions here. Both maps are averaged down to
    the smaller size on each axis: the maps, since features of either sign would cancel.

    Maps of volumes ``(B, channels, depth, height, width)`` are compared alike. A map that is all 0 looks nowhere and has gradient
    0. Raises StageError for features of other numbers of axes: of three it cannot be told which are the channels.
    """
    if not 4 <= student.ndim == teacher.ndim <= 5:
        raise StageError(
            f"attention compares maps (batch, channels, height, width); the student's features are {tuple(student.shape)}, the "
            f"teacher's {tuple(teacher.shape)}: name other layers, or use hidden_states or attention_relations for states "
            "(batch, sequence, hidden), and hint, similarity or rkd for rows (batch, features)"
        )
    p, q = (features.square().sum(1, keepdim=True) for features in (student, teacher))
    size = [min(sizes) for sizes in zip(p.shape[2:], q.shape[2:], strict=True)]
    p, q = (unit(functional.interpolate(energy, size, mode="area").flatten(1), 1) for energy in (p, q))
    return (p - q).square().sum(1).mean() / 2


def hint(regressed: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of what a learned regressor makes of the student's features, and the teacher's features.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, eq. 3 (a mean instead of half the sum, so that
    width does not matter). Raises StageError where the shapes differ: broadcasting would compare the wrong entries.
    """
    if regressed.shape != teacher.shape:
        raise StageError(
            f"hint compares equal shapes; the student's features are {tuple(regressed.shape)} after the regressor, "
            f"the teacher's {tuple(teacher.shape)}"
        )
    return mse(regressed, teacher)

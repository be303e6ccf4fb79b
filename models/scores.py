"""Scores of several labels and of positions, as statistics of samples and one number of them.

A score that is no mean over samples needs sums: a task's ``score`` returns them for each sample,
and its ``aggregate`` makes one number of any samples' rows, which are resampled for its bounds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from attar.models.tensors import Array

Statistics = npt.NDArray[np.float64]


def count_decisions(logits: Array, labels: Array) -> Statistics:
    """Return what ``compute_f1`` reads: the true and false positives, and the false negatives of
    each sample. A label is predicted if its logit is above 0. (N, labels), (N, labels) -> (N, 3).
    """
    predicted, actual = (np.asarray(side, np.float64) > 0 for side in (logits, labels))
    counts = [predicted & actual, predicted & ~actual, ~predicted & actual]
    return np.stack([each.sum(1) for each in counts], 1).astype(np.float64)


def compute_f1(statistics: Statistics) -> float:
    """Return micro F1, ``2 TP / (2 TP + FP + FN)`` of all samples and labels together; 0 if nothing
    was predicted and nothing is there. (N, 3) -> a share."""
    hits, false_alarms, misses = statistics.sum(0)
    involved = 2 * hits + false_alarms + misses
    return float(2 * hits / involved) if involved else 0.0


def join_labels(logits: Array, labels: Array) -> Statistics:
    """Return what ``compute_mean_ap`` reads: the logits and the labels of each sample, side by
    side. (N, labels), (N, labels) -> (N, 2 labels)."""
    return np.concatenate([logits, labels], 1).astype(np.float64)


def compute_mean_ap(statistics: Statistics) -> float:
    """Return mAP, the mean of ``compute_average_precision`` over the labels that some sample has;
    NaN if there is none. (N, 2 labels) -> a share."""
    logits, labels = np.split(statistics, 2, axis=1)
    present = np.flatnonzero(labels.any(0))
    found = [compute_average_precision(logits[:, each], labels[:, each]) for each in present]
    return float(np.mean(found)) if found else float("nan")


def compute_average_precision(scores: Statistics, labels: Statistics) -> float:
    """Return the mean, over the samples that have a label, of the precision among all samples that
    score at least as high. (N,), (N,) -> a share.

    That is the area under the steps of the curve of precision and recall (Manning et al. 2008,
    "Introduction to Information Retrieval", section 8.4). Equal scores count as one place.
    """
    order = np.argsort(-scores, kind="stable")
    falling, is_positive = -scores[order], labels[order] > 0
    places = np.searchsorted(falling, falling, side="right")
    precisions = np.cumsum(is_positive)[places - 1] / places
    return float(precisions[is_positive].mean())


def count_hits(logits: Array, labels: Array, ignore: int | None = None) -> Statistics:
    """Return what ``compute_share`` reads: how many positions of each sample are right, and how
    many have a label. (N, ..., classes), (N, ...) -> (N, 2)."""
    truth = np.asarray(labels).reshape(len(labels), -1)
    guessed = np.asarray(logits).argmax(-1).reshape(truth.shape)
    known = truth != ignore
    return np.stack([((guessed == truth) & known).sum(1), known.sum(1)], 1).astype(np.float64)


def compute_share(statistics: Statistics) -> float:
    """Return the share of all positions with a label that are right. (N, 2) -> a share."""
    hits, known = statistics.sum(0)
    return float(hits / known)


def count_overlaps(logits: Array, labels: Array, ignore: int | None = None) -> Statistics:
    """Return what ``compute_mean_iou`` reads: by class the positions of each sample that have it in
    both, and those that have it in either. (N, ..., classes), (N, ...) -> (N, 2 classes)."""
    truth = np.asarray(labels).reshape(len(labels), -1, 1)
    guessed = np.asarray(logits).argmax(-1).reshape(truth.shape)
    classes, known = np.arange(logits.shape[-1]), truth != ignore
    predicted, actual = (guessed == classes) & known, (truth == classes) & known
    counts = [(predicted & actual).sum(1), (predicted | actual).sum(1)]
    return np.concatenate(counts, 1).astype(np.float64)


def compute_mean_iou(statistics: Statistics) -> float:
    """Return the mean, over the classes that are there or were predicted, of the intersection over
    the union of all samples, the measure of Pascal VOC (Everingham et al. 2010,
    doi:10.1007/s11263-009-0275-4). (N, 2 classes) -> a share."""
    both, either = np.split(statistics.sum(0), 2)
    return float((both[either > 0] / either[either > 0]).mean())

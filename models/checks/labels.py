"""Checks of the labels that a split gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from attar.models.checks.tokens import check_token_labels
from attar.models.task import CLASSIFYING, Array, Batch, Kind, Output, Task
from attar.models.tensors import AxisRanges, TensorSpec, find_mismatch
from attar.pipeline.core.errors import StageError

LABEL_WORDS: Mapping[Kind, str] = {
    **dict.fromkeys(CLASSIFYING, "integer class indices"),
    "tokens": "token ids",
    "multilabel": "integers 0 and 1",
}
"""What labels are, by the kind of their output; else numbers."""


def check_labels(task: Task, where: str, batch: Batch) -> None:
    """Raises StageError unless targets have the axes of their output, and hold what trains its
    kind: class indices in ``[0, classes)``, 0 and 1, tokens, finite numbers."""
    for name, output in task.outputs.items():
        if output.target is None:
            continue
        if output.target not in batch.targets:
            raise StageError(
                f"{where} has no target {output.target!r}, which the output {name!r} is trained on"
            )
        target = batch.targets[output.target]
        check_kind(task, where, name, target)
        CONTENT_CHECKS.get(output.kind, check_numbers)(where, output.target, output, target)


def check_unlabelled(where: str, batch: Batch) -> None:
    if batch.targets:
        raise StageError(
            f"{where} gives the targets {sorted(batch.targets)}; it holds samples without labels, "
            "so return inputs alone (labelled samples belong in train)"
        )


def check_kind(task: Task, where: str, name: str, target: Array) -> None:
    """Raises StageError unless a target has the axes and the kind of numbers of its output."""
    output = task.outputs[name]
    axes = output.axes[:-1] if output.kind in CLASSIFYING else output.axes
    kinds = "biu" if output.kind in LABEL_WORDS else "biuf"
    spec = TensorSpec(target.dtype.name, axes)
    wrong_shape = find_mismatch(spec, target.shape, ranges=list_sample_ranges(task))
    if target.dtype.kind not in kinds or wrong_shape:
        wanted = LABEL_WORDS.get(output.kind, "numbers")
        raise StageError(
            f"{where} gives the target {output.target!r} as {target.dtype} {target.shape}; the "
            f"output {name!r}, {output.kind} of {output.axes}, is trained on {wanted} of the axes "
            f"{axes}"
        )


def list_sample_ranges(task: Task) -> AxisRanges:
    """Return the ranges of a sample's own axes: a split has more samples than a batch."""
    return {axis: sizes for axis, sizes in task.ranges.items() if axis != "batch"}


def check_classes(where: str, name: str, output: Output, target: Array) -> None:
    """Raises StageError for a label that is no class, and for a sample whose labels are all
    ignored; a dynamic number of classes promises none."""
    labels, classes = np.asarray(target, np.int64), output.axes[-1]
    known = labels != output.ignore
    if isinstance(classes, int):
        wrong = labels[((labels < 0) | (labels >= classes)) & known]
        if len(wrong):
            examples = sorted(set(wrong.tolist()))[:5]
            raise StageError(
                f"{where} gives {name!r} {len(wrong)} labels outside the {classes} classes (0 to "
                f"{classes - 1}): {examples}{suggest_ignore(output)}"
            )
    unknown = np.flatnonzero(~known.reshape(len(known), -1).any(1))
    if len(unknown):
        raise StageError(
            f"{where} gives {name!r} {len(unknown)} samples of which every position is ignored "
            f"({output.ignore}), such as row {unknown[0]} of a batch; they teach and prove "
            "nothing: leave them out, or put them in transfer"
        )


class ClassCheck:
    """Counts, batch by batch, the classes that the labels of a split name."""

    def __init__(self, task: Task) -> None:
        self.outputs = {
            output.target: output
            for output in task.outputs.values()
            if output.kind in CLASSIFYING and output.target is not None and output.axes[-1] != 1
        }
        self.found: dict[str, set[int]] = {name: set() for name in self.outputs}

    def add(self, batch: Batch) -> None:
        for name, output in self.outputs.items():
            if len(found := self.found[name]) < 2:
                found |= {*np.unique(batch.targets[name]).tolist()} - {output.ignore}

    def finish(self, where: str, samples: int) -> None:
        """Raises StageError if all labels of several samples are one class: a network that always
        answers it has the best score."""
        for name, found in self.found.items():
            if samples > 1 and len(found) == 1:
                raise StageError(
                    f"{where} gives {name!r} the class {found.pop()} in all of {samples} samples, "
                    "which a network that always answers it gets right: take samples of several "
                    "classes, or correct the labels"
                )


def suggest_ignore(output: Output) -> str:
    """Return how positions without a label are declared, for an output that has positions."""
    if len(output.axes) < 3 or output.ignore is not None:
        return ""
    return "; if they mark positions without a label, set ignore=... of the output to that number"


def check_decisions(where: str, name: str, output: Output, target: Array) -> None:
    """Raises StageError for labels of a multilabel output that are neither 0 nor 1."""
    labels = np.asarray(target, np.int64)
    wrong = labels[(labels != 0) & (labels != 1)]
    if len(wrong):
        examples = sorted(set(wrong.tolist()))[:5]
        raise StageError(
            f"{where} gives {name!r} {len(wrong)} labels that are neither 0 nor 1: {examples}; "
            "each label has a column, which holds 1 where it applies"
        )


def check_numbers(where: str, name: str, output: Output, target: Array) -> None:
    if not np.isfinite(np.asarray(target, np.float64)).all():
        raise StageError(f"{where}: the target {name!r} holds NaN or infinity")


CONTENT_CHECKS: Mapping[Kind, Callable[[str, str, Output, Array], None]] = {
    **dict.fromkeys(CLASSIFYING, check_classes),
    "tokens": check_token_labels,
    "multilabel": check_decisions,
}
"""By the kind of the output; numbers are checked for all others."""

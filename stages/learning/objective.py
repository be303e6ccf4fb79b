"""Objectives: what one step of training minimizes. The loop knows a loss only through this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from attar.models.checks.tokens import check_label_lengths
from attar.models.generation import Decoding, Integers, find_decoding
from attar.models.mixing import PARTNER, SHARE
from attar.models.task import CLASSIFYING, Array, Arrays, Output, Split, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.learning import paths
from attar.stages.learning.lesson import Lesson, Part, list_places, select_places
from attar.stages.learning.losses import binary_cross_entropy, cross_entropy, mse

Tensors = Mapping[str, Tensor]
Parts = dict[tuple[Part, str], Array]
Autocast = Callable[[], AbstractContextManager[None]]
"""Return the context that a network runs in."""


class Objective(Protocol):
    def check_task(self, task: Task) -> None:
        """Raises StageError if the loss cannot be computed for the task. Called before training."""

    def find_transfer(self, task: Task) -> Split | None:
        """Return the samples without labels to learn from, or None."""

    def build_auxiliary(
        self, task: Task, module: nn.Module, autocast: Autocast = nullcontext
    ) -> nn.Module:
        """Return the module that is trained together with ``module`` and then discarded.

        It has no parameters if there is nothing to train. ``module`` runs in ``autocast``.
        """

    def set_progress(self, progress: float) -> float:
        """Set the share of all steps that are done, from 0 to 1. Called before each step.

        Return the progress of the learning rate's schedule, which is this share unless a training
        has several parts.
        """

    @property
    def reads_network(self) -> bool:
        """Whether the loss of the next step reads what the network answers: else it is not called,
        and its batch statistics stay as they are."""

    def read_lesson(self, task: Task, batch: ViewBatch, view: int) -> Lesson[Array]:
        """Return what the network and the loss read of ``batch``, which belongs to ``view``.

        A network that generates also reads prefixes.
        """

    def __call__(self, task: Task, outputs: Tensors, lesson: Lesson[Tensor]) -> Tensor:
        """Return the loss of float32 ``outputs`` for a lesson."""

    @property
    def notes(self) -> dict[str, list[float]]:
        """Values logged in the current epoch. A checkpoint saves and restores them."""

    def pop_means(self) -> dict[str, float]:
        """Return the means of the notes since the last call, for the history."""


@dataclass(frozen=True)
class LabelObjective:
    """L_other: the sum over the outputs that have a target.

    It is the cross-entropy for outputs with classes, the binary cross-entropy for multilabel, and
    the squared error for values.
    """

    smoothing: float = 0.0
    weight: float = 1.0

    def check_task(self, task: Task) -> None:
        if not any(output.target for output in task.outputs.values()):
            raise StageError(
                f"no output of {type(task).__name__} has a target, so there are no labels to learn "
                "from; name one in Output(target=...), or adopt a teacher (weights or "
                "huggingface), distil with lambda_kd = 1, and leave out the control"
            )

    def find_transfer(self, task: Task) -> Split | None:
        return None

    def build_auxiliary(
        self, task: Task, module: nn.Module, autocast: Autocast = nullcontext
    ) -> nn.Module:
        return nn.Module()

    def set_progress(self, progress: float) -> float:
        return progress

    @property
    def reads_network(self) -> bool:
        return True

    def read_lesson(self, task: Task, batch: ViewBatch, view: int) -> Lesson[Array]:
        if decoding := find_decoding(task):
            path = self.read_path(task, batch, decoding)
            inputs = paths.add_prefixes(batch.inputs, [path], decoding)
            weight = weigh_labels(batch, path, decoding)
            return Lesson(inputs, read_tokens(path, decoding), batch.labelled, weight)
        parts = self.read_labels(task, batch)
        return Lesson(batch.inputs, parts, batch.labelled, batch.label_weight)

    def read_labels(self, task: Task, batch: ViewBatch) -> Parts:
        """Return the labels of all outputs that have a target."""
        parts: Parts = {}
        for name, output in task.outputs.items():
            if output.target is not None:
                parts |= read_target(name, output, batch.targets)
        return parts

    def read_path(self, task: Task, batch: ViewBatch, decoding: Decoding) -> Integers:
        """Return the labels of an output of tokens as paths.

        Raises StageError for one that is longer than its source allows.
        """
        target = str(task.outputs[decoding.output].target)
        check_label_lengths(f"{type(task).__name__}.split('train')", decoding, batch, target)
        return paths.read_label_path(batch, target, decoding)

    @property
    def notes(self) -> dict[str, list[float]]:
        return {}

    def pop_means(self) -> dict[str, float]:
        return {}

    def __call__(self, task: Task, outputs: Tensors, lesson: Lesson[Tensor]) -> Tensor:
        weight = self.weight * lesson.label_weight
        if decoding := find_decoding(task):
            name = decoding.output
            logits = select_places(outputs[name], lesson.find("label places", name))
            tokens = lesson.parts["labels", name]
            return weight * cross_entropy(logits, tokens, self.smoothing)
        terms = []
        for name, output in task.outputs.items():
            labels = mix_labels(name, output, lesson)
            if labels is not None:
                places = lesson.find("label places", name)
                got = outputs[name][: len(labels)] if places is None else outputs[name]
                terms.append(self.compute_term(output, select_places(got, places), labels))
        return weight * torch.stack(terms).sum()

    def compute_term(self, output: Output, got: Tensor, target: Tensor) -> Tensor:
        if output.kind in CLASSIFYING:
            return cross_entropy(got, target, self.smoothing)
        if output.kind == "multilabel":
            return binary_cross_entropy(got, target, self.smoothing)
        return mse(got, target)


def weigh_labels(batch: ViewBatch, path: Integers, decoding: Decoding) -> float:
    """Return what the mean over the tokens of a path of labels weighs."""
    return batch.weigh_tokens(paths.count_tokens(path, decoding))


def read_tokens(path: Integers, decoding: Decoding, start: int = 0) -> Parts:
    """Return the tokens of a path of labels, and where the logits about them are."""
    tokens = path[paths.mask_path(path, decoding)]
    places = paths.list_token_places(path, decoding, start)
    return {("labels", decoding.output): tokens, ("label places", decoding.output): places}


def read_target(name: str, output: Output, targets: Arrays) -> Parts:
    """Return the labels of an output; of mixed samples also those of the partners and the shares.

    Labels that the output ignores are left out.
    """
    labels = convert_target(output, targets[str(output.target)])
    if SHARE in targets:
        partners = convert_target(output, targets[f"{output.target}{PARTNER}"])
        shares = np.asarray(targets[SHARE])
        return {("labels", name): labels, ("partners", name): partners, ("shares", name): shares}
    if output.ignore is None:
        return {("labels", name): labels}
    known = labels != output.ignore
    return {("labels", name): labels[known], ("label places", name): list_places(known)}


def convert_target(output: Output, target: Array) -> Array:
    """Return class indices as int64, other targets as float32."""
    return np.asarray(target, np.int64 if output.kind in CLASSIFYING else np.float32)


def mix_labels(name: str, output: Output, lesson: Lesson[Tensor]) -> Tensor | None:
    """Return the labels: class indices, or float32 numbers for other kinds; None if there are none.

    Of mixed samples they are float32 for all kinds: both labels in their shares, those of classes
    as probabilities ``(B, classes)``.
    """
    labels, other = lesson.find("labels", name), lesson.find("partners", name)
    if labels is None or other is None:
        return labels
    if output.kind in CLASSIFYING:
        classes = torch.arange(int(output.axes[-1]), device=labels.device)
        labels, other = ((each[..., None] == classes).float() for each in (labels, other))
    shares = lesson.parts["shares", name].reshape(-1, *[1] * (labels.ndim - 1))
    return other + shares * (labels - other)

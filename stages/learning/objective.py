"""Objectives: what one step of training minimizes. The loop knows a loss only through this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.models.checks.tokens import check_label_lengths
from attar.models.generation import Decoding, Integers, find_decoding
from attar.models.mixing import PARTNER, SHARE
from attar.models.task import CLASSIFYING, Array, Output, Split, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.learning import paths
from attar.stages.learning.losses import binary_cross_entropy, cross_entropy, mse

Tensors = Mapping[str, Tensor]
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

    def prepare_batch(self, task: Task, batch: ViewBatch, view: int) -> ViewBatch:
        """Return the batch as the network reads it: one that generates also reads prefixes."""

    def __call__(self, task: Task, outputs: Tensors, batch: ViewBatch, view: int) -> Tensor:
        """Return the loss of float32 ``outputs`` for ``batch``, which belongs to ``view``."""

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

    def prepare_batch(self, task: Task, batch: ViewBatch, view: int) -> ViewBatch:
        decoding = find_decoding(task)
        if decoding is None:
            return batch
        return paths.add_prefixes(batch, [self.read_path(task, batch, decoding)], decoding)

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

    def __call__(self, task: Task, outputs: Tensors, batch: ViewBatch, view: int) -> Tensor:
        if decoding := find_decoding(task):
            path = self.read_path(task, batch, decoding)
            logits, tokens = paths.select_tokens(
                outputs[decoding.output][: len(path)], path, decoding
            )
            return self.weight * cross_entropy(logits, tokens, self.smoothing)
        terms = []
        for name, output in task.outputs.items():
            target = read_target(output, batch, outputs[name].device)
            if target is not None:
                got = outputs[name][: len(target)]
                known = find_labelled(output, target)
                if known is not None:
                    got, target = got[known], target[known]
                terms.append(self.compute_term(output, got, target))
        return self.weight * torch.stack(terms).sum()

    def compute_term(self, output: Output, got: Tensor, target: Tensor) -> Tensor:
        if output.kind in CLASSIFYING:
            return cross_entropy(got, target, self.smoothing)
        if output.kind == "multilabel":
            return binary_cross_entropy(got, target, self.smoothing)
        return mse(got, target)


def read_target(output: Output, batch: ViewBatch, device: torch.device) -> Tensor | None:
    """Return the target: class indices, or float32 numbers for other kinds; None if there is none.

    Of mixed samples it is float32 for all kinds: both labels in their shares, those of classes as
    probabilities ``(B, classes)``.
    """
    if output.target is None:
        return None
    target = convert_target(output, batch.targets[output.target], device)
    if SHARE not in batch.targets:
        return target
    other = convert_target(output, batch.targets[output.target + PARTNER], device)
    if output.kind in CLASSIFYING:
        classes = int(output.axes[-1])
        target, other = (functional.one_hot(each, classes).float() for each in (target, other))
    shares = torch.from_numpy(batch.targets[SHARE]).to(device)
    return other + shares.reshape(-1, *[1] * (target.ndim - 1)) * (target - other)


def convert_target(output: Output, target: Array, device: torch.device) -> Tensor:
    """Return class indices as int64, other targets as float32."""
    tensor = torch.from_numpy(np.asarray(target)).to(device)
    return tensor.long() if output.kind in CLASSIFYING else tensor.float()


def find_labelled(output: Output, target: Tensor) -> Tensor | None:
    """Return where positions have a label, a mask of the target's shape; None if all have one."""
    return None if output.ignore is None else target != output.ignore

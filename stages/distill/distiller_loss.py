"""Connect the distiller to one student and compute its part of L_KD."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import Given, call_network
from attar.engines.runtimes.torch_layers import (
    LayerHook,
    find_last_linear,
    hook_layer,
    keep_padding,
)
from attar.models.task import CLASSIFYING, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.distill.distiller import Distiller, compute_accuracy, compute_terms
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.known_answers import select_features, select_labelled
from attar.stages.learning.lesson import Lesson
from attar.stages.learning.losses import cross_entropy
from attar.stages.learning.objective import Autocast, Tensors


class DistillerLoss:
    """Computes the distiller's part of L_KD.

    Its network is trained with the student and discarded with this object.
    """

    def __init__(
        self,
        settings: DistillerSettings,
        task: Task,
        student: nn.Module,
        autocast: Autocast = nullcontext,
    ) -> None:
        """``autocast`` is the context that the student runs in."""
        self.settings, self.output = settings, choose_output(settings, task)
        self.task, self.autocast = task, autocast
        self.copy = copy.deepcopy(student) if settings.pretraining else None
        """The student's layers as the distiller trains them, if it is trained before."""
        self.is_pretraining = self.copy is not None
        trunk = student if self.copy is None else self.copy
        if settings.features:
            self.hook = hook_layer(trunk, settings.features, "student")
        else:
            self.hook = LayerHook(find_last_linear(trunk), before=True)
        classes = int(task.outputs[self.output].axes[-1])
        features = self.count_features(task, trunk, classes)
        self.network = Distiller(features, classes, settings.hidden)
        self.read_notes: dict[str, list[float]] = defaultdict(list)
        self.unread: list[Mapping[str, Tensor]] = []
        """Notes that are still on the device: to read one would wait for its step."""

    def count_features(self, task: Task, student: nn.Module, classes: int) -> int:
        """Call the student once, and return its number of features per row.

        Raises StageError if the rows of the features are not those of the logits.
        """
        training = student.training
        student.eval()
        with torch.no_grad():
            outputs = call_network(student, task, task.example(np.random.default_rng(0), batch=2))
        student.train(training)
        features, rows = self.hook(), outputs[self.output].numel() // classes
        if features.flatten(0, -2).shape[0] != rows:
            raise StageError(
                f"the shared features have shape {list(features.shape)}, the logits "
                f"{list(outputs[self.output].shape)}: a distiller needs one row of features for "
                "each row of logits; name another layer in distiller.features"
            )
        return features.shape[-1]

    def set_progress(self, progress: float) -> float:
        """Set the share of all steps that are done. Return the share of this part of the training:
        the distiller's, or the student's."""
        first = self.settings.pretraining
        self.is_pretraining = progress < first
        return progress / first if self.is_pretraining else (progress - first) / (1 - first)

    def run_copy(self, inputs: Given) -> Tensors:
        """Return what the copy of the student's layers answers; nothing if there is no copy. Its
        features are read next."""
        if self.copy is None:
            return {}
        self.copy.train(self.is_pretraining)
        learns = torch.set_grad_enabled(self.is_pretraining and torch.is_grad_enabled())
        with learns, self.autocast(), keep_padding(self.copy):
            return call_network(self.copy, self.task, inputs)

    def __call__(self, output: Tensor, lesson: Lesson[Tensor]) -> Tensor:
        """Return weight * L_C + L_D + L_A for the batch that has just been answered by ``output``.

        In two steps it is L_D in the first, where the copy answers, and weight * L_C + L_A in the
        second. Only what has labels counts.
        """
        student, teacher, labels = select_labelled(self.output, output, lesson)
        if labels is None:
            raise StageError(
                "the distiller learns from labels, and this output has none; name its target in "
                "Output(target=...)"
            )
        rows = (student.flatten(0, -2), teacher.flatten(0, -2), labels.flatten())
        features = self.read_features(output, lesson)[: len(labels)].flatten(0, -2)  # (R, D)
        if self.is_pretraining:
            logits, _ = self.network(features, rows[1])
            self.unread.append({"distiller_score": compute_accuracy(logits, rows[2])})
            return cross_entropy(logits, rows[2])
        logits, scores = self.network(features, rows[1], frozen=self.copy is not None)
        shares = self.settings.compute_shares()
        terms = compute_terms(logits, scores, *rows, shares, self.settings.floor)
        self.unread.append(terms.logged)
        learned = self.settings.weight * terms.compared + terms.supervision
        return learned if self.copy is not None else learned + terms.own

    def read_features(self, output: Tensor, lesson: Lesson[Tensor]) -> Tensor:
        """Return the features of what counts, in the order of its logits."""
        features = self.hook().reshape(*output.shape[:-1], -1)
        known = select_features(self.output, features, lesson)
        return known if self.settings.trunk else known.detach()

    @property
    def notes(self) -> dict[str, list[float]]:
        """The values of the steps since ``pop_means`` was called. NaN is the mean of no sample."""
        names = [name for note in self.unread for name in note]
        values = [value for note in self.unread for value in note.values()]
        self.unread.clear()
        for name, value in zip(
            names, torch.stack(values).cpu().tolist() if values else (), strict=True
        ):
            if not math.isnan(value):
                self.read_notes[name].append(value)
        return self.read_notes

    def pop_means(self) -> dict[str, float]:
        """Return the means over the steps since the last call."""
        means = {name: round(float(np.mean(values)), 6) for name, values in self.notes.items()}
        self.read_notes.clear()
        return means


def choose_output(settings: DistillerSettings, task: Task) -> str:
    """Return the output that the distiller reads.

    It needs a target, which ignores nothing, and a fixed number of classes. Raises StageError if
    there is no such output, or several and none is named.
    """
    able = [
        name
        for name, output in task.outputs.items()
        if output.kind in CLASSIFYING
        and output.target
        and output.ignore is None
        and isinstance(output.axes[-1], int)
    ]
    if settings.output is None and len(able) == 1:
        return able[0]
    if settings.output in able:
        return str(settings.output)
    known = ", ".join(able) or "none"
    if settings.output is None:
        raise StageError(
            "the distiller needs one output of logits with a target that ignores nothing, "
            f"{type(task).__name__} has {known}; name it, or leave the distiller out"
        )
    raise StageError(
        f"the distiller cannot read the output {settings.output!r}; "
        f"{suggest_name(settings.output, able)}"
    )

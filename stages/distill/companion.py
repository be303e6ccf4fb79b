"""Companion: the distiller beside one student, connected to the features that both share."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network
from attar.models.task import CLASSIFYING, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.distill.choices import Beside
from attar.stages.distill.distiller import Distiller, terms
from attar.stages.distill.taps import Tap, last_linear, tap_layer


class Companion:
    """Computes what the distiller adds to L_KD. Its network is trained with the student and dropped with this object."""

    def __init__(self, settings: Beside, task: Task, student: nn.Module) -> None:
        self.settings, self.output = settings, chosen(settings, task)
        shared = settings.features
        self.tap = tap_layer(student, shared, "student") if shared else Tap(last_linear(student), before=True)
        classes = int(task.outputs[self.output].axes[-1])
        self.network = Distiller(self.probed(task, student, classes), classes, settings.hidden)
        self.notes: dict[str, list[float]] = defaultdict(list)

    def probed(self, task: Task, student: nn.Module, classes: int) -> int:
        """The number of features a row, by calling the student once. Raises StageError where rows are not those of the logits."""
        training = student.training
        student.eval()
        with torch.no_grad():
            outputs = call_network(student, task, task.example(np.random.default_rng(0), batch=2))
        student.train(training)
        features, rows = self.tap(), outputs[self.output].numel() // classes
        if features.flatten(0, -2).shape[0] != rows:
            raise StageError(
                f"the shared features have shape {list(features.shape)}, the logits {list(outputs[self.output].shape)}: a "
                "distiller needs one row of features for each row of logits; name another layer in distiller.features"
            )
        return features.shape[-1]

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """For the batch that the student has just answered: weight * L_C + L_D + L_A.

        Of samples without labels, which come last, nothing is given, and their features are left out too.
        """
        if labels is None:
            raise StageError("the distiller learns from labels, and this output has none; name its target in Output(target=...)")
        rows = (student.flatten(0, -2), teacher.flatten(0, -2), labels.flatten())
        features = self.tap().flatten(0, -2)[: len(rows[0])]  # (R, D)
        if not self.settings.trunk:
            features = features.detach()
        logits, scores = self.network(features, rows[1])
        found = terms(logits, scores, *rows, self.settings.compute_shares(), self.settings.floor)
        for name, value in found.logged.items():
            self.notes[name].append(value)
        return self.settings.weight * found.compared + found.own + found.supervision

    def logged(self) -> dict[str, float]:
        """Means over the steps since the last call."""
        means = {name: round(float(np.mean(values)), 6) for name, values in self.notes.items()}
        self.notes.clear()
        return means


def chosen(settings: Beside, task: Task) -> str:
    """The output that the distiller is about. Raises StageError where that cannot be told or the number of classes varies."""
    able = [
        name
        for name, output in task.outputs.items()
        if output.kind in CLASSIFYING and output.target and isinstance(output.axes[-1], int)
    ]
    if settings.output is None and len(able) == 1:
        return able[0]
    if settings.output in able:
        return str(settings.output)
    known = ", ".join(able) or "none"
    if settings.output is None:
        raise StageError(f"the distiller needs one output of logits with a target, {type(task).__name__} has {known}; name it")
    raise StageError(f"the distiller cannot be about the output {settings.output!r}; {suggest_name(settings.output, able)}")

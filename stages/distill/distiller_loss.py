"""Connect the distiller to one student and compute its part of L_KD."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import call_network
from attar.models.task import CLASSIFYING, Task
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.distill.distiller import Distiller, compute_terms
from attar.stages.distill.layer_hooks import LayerHook, find_last_linear, hook_layer
from attar.stages.distill.loss_settings import DistillerSettings


class DistillerLoss:
    """Computes the distiller's part of L_KD.

    Its network is trained with the student and discarded with this object.
    """

    def __init__(self, settings: DistillerSettings, task: Task, student: nn.Module) -> None:
        self.settings, self.output = settings, choose_output(settings, task)
        if settings.features:
            self.hook = hook_layer(student, settings.features, "student")
        else:
            self.hook = LayerHook(find_last_linear(student), before=True)
        classes = int(task.outputs[self.output].axes[-1])
        features = self.count_features(task, student, classes)
        self.network = Distiller(features, classes, settings.hidden)
        self.notes: dict[str, list[float]] = defaultdict(list)

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

    def __call__(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Return weight * L_C + L_D + L_A for the batch that the student has just answered.

        The arguments hold no samples without labels. The features of these come last, and are
        left out.
        """
        if labels is None:
            raise StageError(
                "the distiller learns from labels, and this output has none; name its target in "
                "Output(target=...)"
            )
        rows = (student.flatten(0, -2), teacher.flatten(0, -2), labels.flatten())
        features = self.hook().flatten(0, -2)[: len(rows[0])]  # (R, D)
        if not self.settings.trunk:
            features = features.detach()
        logits, scores = self.network(features, rows[1])
        shares = self.settings.compute_shares()
        terms = compute_terms(logits, scores, *rows, shares, self.settings.floor)
        for name, value in terms.logged.items():
            self.notes[name].append(value)
        return self.settings.weight * terms.compared + terms.own + terms.supervision

    def pop_means(self) -> dict[str, float]:
        """Return the means over the steps since the last call."""
        means = {name: round(float(np.mean(values)), 6) for name, values in self.notes.items()}
        self.notes.clear()
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

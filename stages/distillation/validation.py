"""How good a network is on validation: its score, and where there is a teacher the correlation with it."""

from __future__ import annotations

import numpy as np
from torch import nn

from attar.models import views
from attar.models.task import Array, Arrays, Task
from attar.stages.artifacts import Answers
from attar.stages.proof.metrics import correlation, deviations
from attar.stages.runtimes.torch import predictor


class Validation:
    """``Validation(task, answers)(module)``: all in float32, on samples that are not augmented."""

    def __init__(self, task: Task, answers: Answers | None = None) -> None:
        self.task = task
        self.split = task.split("validation")
        self.teacher = None if answers is None else answers.of("validation")

    def __call__(self, module: nn.Module) -> dict[str, float]:
        predict = predictor(module, self.task)
        statistics, outputs = [], []
        for seen in views.clean(self.task, self.split):
            made = self.task.answer({"model": predict}, seen.inputs)
            statistics.append(self.task.score(made, seen.targets))
            outputs.append(made)
        measured = {"score": self.task.aggregate(np.concatenate(statistics))}
        if self.teacher is not None:
            measured["correlation"] = self.correlation(self.teacher, outputs)
        return {name: round(value, 6) for name, value in measured.items()}

    def correlation(self, teacher: Arrays, parts: list[dict[str, Array]]) -> float:
        """The smallest over the outputs; logits are centred, because they are defined up to a constant only."""
        found = []
        for name, output in self.task.outputs.items():
            pair = [np.asarray(a, np.float64) for a in (teacher[name], np.concatenate([part[name] for part in parts]))]
            p, q = [deviations(a, -1) for a in pair] if output.kind == "logits" else pair
            found.append(correlation(p, q))
        return min(found)

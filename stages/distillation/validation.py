"""How good a network is on validation: its score, and where there is a teacher the correlation with it."""

from __future__ import annotations

import numpy as np
from torch import nn

from attar.models import views
from attar.models.task import Array, Arrays, Task
from attar.stages.artifacts import Answers
from attar.stages.proof.metrics import compare, worst
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
            measured |= self.against(self.teacher, outputs)
        return {name: round(value, 6) for name, value in measured.items()}

    def against(self, teacher: Arrays, parts: list[dict[str, Array]]) -> dict[str, float]:
        """CORR and, where there are logits, KDL with the teacher, both of the worst output."""
        pairs = {name: (teacher[name], np.concatenate([part[name] for part in parts])) for name in self.task.outputs}
        found = worst([compare(output.kind, *pairs[name]).numbers for name, output in self.task.outputs.items()])
        return {name: value for name in ("correlation", "kdl") if (value := found[name]) is not None}

    def oacc(self) -> float | None:
        """OACC on validation: the teacher's own score, from its stored answers; None without them."""
        if self.teacher is None:
            return None
        targets = [seen.targets for seen in views.clean(self.task, self.split)]
        joined = {name: np.concatenate([each[name] for each in targets]) for name in targets[0]}
        return round(self.task.aggregate(self.task.score(dict(self.teacher), joined)), 6)

"""Field: the contenders side by side, asked the same and timed in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attar.models import views
from attar.models.task import Array, SplitName, Task
from attar.proof.comparison.timing import Seconds
from attar.proof.estimates.metrics import compare_outputs
from attar.proof.estimates.sums import Sums
from attar.stages.artifacts import Answers
from benchmarks.peers.contenders import Built, Contender, Given
from benchmarks.peers.environments import UnavailableError
from benchmarks.peers.process import Worker

ASKED = 32  # samples a call when answers are looked at: one of the sizes that are timed


@dataclass
class ContenderRow:
    """What was found of one contender; ``why`` it was not run here, where it was not."""

    contender: Contender
    built: Built | None = None
    why: str = ""
    answers: dict[str, Array] = field(default_factory=dict)
    """On the split that was asked for last."""
    seconds: dict[int, Seconds] = field(default_factory=dict)
    """By batch, entry i of every contender from the same round."""

    @property
    def name(self) -> str:
        return self.contender.name

    def compute_median(self, batch: int) -> float:
        """Return the seconds of a call."""
        return float(np.median(self.seconds[batch]))


@dataclass
class Field:
    """One student, its teacher's answers, and the workers that hold its engines."""

    task: Task
    answers: Answers
    given: Given
    cpu: int
    slice: float
    rows: dict[str, ContenderRow]
    workers: dict[str, Worker]

    def ask_workers(self, names: Sequence[str], **request: Any) -> dict[str, dict[str, Any]]:
        """Ask these in turn. One whose process dies is out, and its row says why."""
        replies = {}
        for name in [name for name in names if name in self.workers]:
            try:
                replies[name] = self.workers[name].ask(**request)
            except UnavailableError as error:
                self.rows[name].why = str(error)
                del self.workers[name]
        return replies

    def answer_split(self, names: Sequence[str], split: SplitName) -> None:
        for name in names:
            made = self.given.folder / "answers.npz"
            if self.ask_workers([name], answer=self.given.find_inputs(split), batch=ASKED, to=made):
                self.rows[name].answers = dict(np.load(made))

    def time_engines(self, names: Sequence[str], batch: int, rounds: int) -> None:
        self.ask_workers(names, load=self.given.find_inputs(batch))
        timed = [name for name in names if name in self.workers]
        taken: dict[str, list[float]] = {name: [] for name in timed}
        order = np.random.default_rng(0)
        for _ in range(rounds):
            for index in order.permutation(len(timed)):
                taken[timed[index]].append(
                    self.workers[timed[index]].ask(time=self.slice)["seconds"]
                )
        for name in timed:
            self.rows[name].seconds[batch] = np.array(taken[name])

    def compute_score(self, row: ContenderRow) -> float:
        seen = [each.targets for each in views.iterate_clean(self.task, self.task.split("test"))]
        targets = {name: np.concatenate([each[name] for each in seen]) for name in seen[0]}
        return self.task.aggregate(self.task.score(row.answers, targets))

    def compute_correlation(self, row: ContenderRow, split: SplitName) -> Sums:
        """Return CORR with the teacher, of the task's first output."""
        name, output = next(iter(self.task.outputs.items()))
        return compare_outputs(
            output.kind, self.answers.read_split(split)[name], row.answers[name]
        ).sums["correlation"]


def open_contenders(
    contenders: Sequence[Contender], given: Given, cpu: int, stack: ExitStack
) -> tuple[dict[str, ContenderRow], dict[str, Worker]]:
    """Build every contender, and hold every one open that can be."""
    rows, workers = {contender.name: ContenderRow(contender) for contender in contenders}, {}
    for name, row in rows.items():
        print(f"building {name}", file=sys.stderr)
        try:
            row.built = row.contender.build_engine(given)
            log = given.folder / f"{name.replace(' ', '-')}.log"
            worker = Worker(
                row.contender.environment, given.cache, row.contender.kind, row.built.file, cpu, log
            )
            workers[name] = stack.enter_context(worker)
        except UnavailableError as error:
            row.why = str(error)
    return rows, workers

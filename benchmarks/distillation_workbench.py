"""The workbench of ``benchmarks.distillation``: it trains one teacher, its students and their
controls, keeps them, and measures them on the test split."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from attar.models import views
from attar.models.task import Arrays, load_task
from attar.proof.estimates.metrics import compare_outputs
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.stage import Control, Distill
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach
from benchmarks.distillation_rows import (
    FIELDS,
    MATCHED,
    SMOOTHED,
    Choice,
    ControlRow,
    TeacherStudent,
)

RESIDUAL = "attar.models.networks.residual:residual"
Columns = dict[str, list[float]]
"""What each of several students measures, by metric."""


@dataclass(frozen=True)
class Workbench:
    name: str
    field: TeacherStudent
    work: Path
    device: str

    def run_stage(self, name: str, stage: Any, **inputs: Any) -> tuple[Path, dict[str, Any]]:
        """Return a stage's folder and facts, from ``work`` where it was made before; wait where
        another process is making it.

        Raises SystemExit where it was made with other settings.
        """
        settings = json.loads(stage.model_dump_json())
        out, note = self.work / name / "out", self.work / name / "facts.json"
        out.mkdir(parents=True, exist_ok=True)
        with self.create_lock(name):
            if not note.exists():
                started = time.process_time()
                facts = dict(stage.run(out, **inputs))
                seconds = (time.process_time() - started) / len(facts.get("history") or [1])
                facts |= {"seconds_an_epoch": round(seconds, 3), "settings": settings}
                note.write_text(json.dumps(facts))
        found = json.loads(note.read_text())
        if found.get("settings") != settings:
            raise SystemExit(
                f"{self.work / name} was trained with other settings than this table has: delete it"
            )
        return out, found

    def create_lock(self, name: str) -> FileLock:
        self.work.mkdir(parents=True, exist_ok=True)
        return FileLock(self.work / f"{name.replace('/', '-')}.lock")

    def is_busy(self, name: str) -> bool:
        """Return whether another process is making it."""
        try:
            with self.create_lock(name).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def merge_settings(self, part: Mapping[str, Any]) -> dict[str, Any]:
        return {"task": self.field.task, "network": RESIDUAL, "device": self.device, **part}

    def make_teacher(
        self, name: str = "", smoothing: float = 0.0, asked: str = "", **labelling: Any
    ) -> tuple[Weights, Answers]:
        stage = Teach(**self.merge_settings(self.field.teacher), label_smoothing=smoothing)
        root, facts = self.run_stage(f"{name}teacher", stage)
        teacher = Weights("", "", root, facts)
        labels = Label(task=self.field.task, device=self.device, **{"views": 4, **labelling})
        root, facts = self.run_stage(f"{name}{asked}answers", labels, teacher=teacher)
        return teacher, Answers("", "", root, facts)

    def choose_teacher(self, row: str) -> tuple[Weights, Answers]:
        if row == MATCHED:
            views = self.field.student["epochs"]
            return self.make_teacher(
                asked=f"{self.length}mixed-", views=views, mix=("mixup", "cutmix")
            )
        return self.make_teacher("smoothed-", 0.1) if row == SMOOTHED else self.make_teacher()

    def make_students(
        self, name: str, chosen: Choice, seeds: Sequence[int], taught: tuple[Weights, Answers]
    ) -> list[Weights]:
        return [self.make_student(name, chosen, seed, taught) for seed in seeds]

    def make_student(
        self, name: str, chosen: Choice, seed: int, taught: tuple[Weights, Answers]
    ) -> Weights:
        settings = self.merge_settings(self.field.student) | {"seed": seed}
        place = self.name_folder(name, seed)
        if isinstance(chosen, ControlRow):
            root, facts = self.run_stage(
                place, Control(**settings, enabled=True, **chosen.settings)
            )
        else:
            root, facts = self.run_stage(
                place, Distill(**settings, **chosen), teacher=taught[0], answers=taught[1]
            )
        return Weights("", "", root, facts)

    def name_folder(self, name: str, seed: int) -> str:
        """Return the folder of a student, below ``work``."""
        return f"{self.length}{name.replace(' ', '-').replace(',', '')}/{seed}"

    @property
    def length(self) -> str:
        """What the folders of students begin with that are trained longer, or shorter, than the
        task's own."""
        epochs = self.field.student["epochs"]
        return "" if epochs == FIELDS[self.name].student["epochs"] else f"{epochs}-epochs-"

    def measure_student(self, student: Weights, answers: Answers) -> dict[str, float]:
        """Measure on the test split, against the teacher's stored answers."""
        task = load_task(self.field.task)
        seen = list(views.iterate_clean(task, task.split("test")))
        with student.open() as predict:
            parts = [predict(each.inputs) for each in seen]
        outputs: Arrays = {
            name: np.concatenate([part[name] for part in parts]) for name in task.outputs
        }
        targets = {
            name: np.concatenate([each.targets[name] for each in seen]) for name in seen[0].targets
        }
        found = compare_outputs(
            "logits", answers.read_split("test")["logits"], outputs["logits"]
        ).numbers
        told = {"CORR": found["correlation"], "KDL": found["kdl"], "agreement": found["agreement"]}
        score = task.aggregate(task.score(outputs, targets))
        return {"accuracy": score, **{name: float(value or 0) for name, value in told.items()}}

    def measure_students(self, students: Sequence[Weights], answers: Answers) -> Columns:
        found = [self.measure_student(student, answers) for student in students]
        return {metric: [each[metric] for each in found] for metric in found[0]}

    def score_teacher(self, answers: Answers) -> float:
        task = load_task(self.field.task)
        targets = [seen.targets for seen in views.iterate_clean(task, task.split("test"))]
        joined = {name: np.concatenate([each[name] for each in targets]) for name in targets[0]}
        return task.aggregate(task.score(dict(answers.read_split("test")), joined))

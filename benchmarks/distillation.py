"""What each way to distil is worth: one teacher, one student, paired seeds, the same views, steps and schedule for every row.

``python -m benchmarks.distillation`` prints a table for digits in two minutes, of which 300 test images tell little.
``--task fashion`` takes hours on two cores. Every finished training is kept in ``--work``, so an interrupted run goes on;
empty it to measure anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student_t

from attar.models import views
from attar.models.task import Arrays, load_task
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill import Control, Distill
from attar.stages.label import Label
from attar.stages.proof.metrics import compare
from attar.stages.teach import Teach

RESIDUAL = "attar.models.networks.residual:residual"
SEEDS = (0, 1, 2, 3, 4)
KD = {"kind": "kd", "temperature": 2.0}


@dataclass(frozen=True)
class Field:
    """One task, its teacher and its student."""

    task: str
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    layers: str
    """The layer of both networks whose features are compared."""


FIELDS = {
    "fashion": Field(
        "attar.models.tasks.fashion:FashionMnist",
        {"options": {"width": 48, "stem": 2}, "epochs": 5, "learning_rate": 0.003},
        {"options": {"width": 12, "stem": 2}, "epochs": 6, "learning_rate": 0.006},
        "stages",
    ),
    "digits": Field(
        "attar.models.tasks.digits:Digits",
        {"options": {"width": 16}, "epochs": 12, "batch": 64, "learning_rate": 0.01},
        {"options": {"width": 4}, "epochs": 15, "batch": 64, "learning_rate": 0.02},
        "stages",
    ),
}


def rows(field: Field) -> dict[str, dict[str, Any] | None]:
    """Settings of ``Distill`` by name; None is the control."""
    attention = {"kind": "attention", "student": field.layers, "teacher": field.layers, "weight": 100.0}
    plain = {"teacher_attention": False, "student_attention": False}
    return {
        "no teacher": None,
        "KD": {"losses": [KD]},
        "KD, standardized": {"losses": [KD | {"standardize": True}]},
        "DKD": {"losses": [{"kind": "dkd", "temperature": 2.0}]},
        "DIST": {"losses": [{"kind": "dist", "beta": 2.0, "gamma": 2.0}]},
        "KD + logit_pearson": {"losses": [KD, {"kind": "logit_pearson"}]},
        "KD + AT": {"losses": [KD, attention]},
        "KD + distiller": {"losses": [KD], "distiller": plain},
        "KD + distiller, teacher attention": {"losses": [KD], "distiller": plain | {"teacher_attention": True}},
        "KD + distiller, student attention": {"losses": [KD], "distiller": plain | {"student_attention": True}},
        "KD + distiller, both": {"losses": [KD], "distiller": {}},
        "KD + distiller, both, own trunk": {"losses": [KD], "distiller": {"trunk": False}},
    }


@dataclass(frozen=True)
class Bench:
    field: Field
    work: Path
    device: str

    def made(self, name: str, stage: Any, **inputs: Any) -> tuple[Path, dict[str, Any]]:
        """A stage's folder and facts, from ``work`` where it was made before."""
        out, note = self.work / name / "out", self.work / name / "facts.json"
        if not note.exists():
            out.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            facts = dict(stage.run(out, **inputs))
            seconds = (time.perf_counter() - started) / len(facts.get("history") or [1])
            note.write_text(json.dumps(facts | {"seconds_an_epoch": round(seconds, 3)}))
        return out, json.loads(note.read_text())

    def settings(self, part: Mapping[str, Any]) -> dict[str, Any]:
        return {"task": self.field.task, "network": RESIDUAL, "device": self.device, **part}

    def teacher(self) -> tuple[Weights, Answers]:
        root, facts = self.made("teacher", Teach(**self.settings(self.field.teacher)))
        teacher = Weights("", "", root, facts)
        stage = Label(task=self.field.task, views=4, device=self.device)
        root, facts = self.made("answers", stage, teacher=teacher)
        return teacher, Answers("", "", root, facts)

    def student(self, name: str, chosen: Mapping[str, Any] | None, seed: int, teacher: Weights, answers: Answers) -> Weights:
        settings = self.settings(self.field.student) | {"seed": seed}
        place = f"{name.replace(' ', '-').replace(',', '')}/{seed}"
        if chosen is None:
            root, facts = self.made(place, Control(**settings, enabled=True, views=4))
        else:
            root, facts = self.made(place, Distill(**settings, **chosen), teacher=teacher, answers=answers)
        return Weights("", "", root, facts)

    def measured(self, student: Weights, answers: Answers) -> dict[str, float]:
        """On the test split, against the teacher's stored answers."""
        task = load_task(self.field.task)
        seen = list(views.clean(task, task.split("test")))
        with student.open() as predict:
            parts = [predict(each.inputs) for each in seen]
        outputs: Arrays = {name: np.concatenate([part[name] for part in parts]) for name in task.outputs}
        targets = {name: np.concatenate([each.targets[name] for each in seen]) for name in seen[0].targets}
        found = compare("logits", answers.of("test")["logits"], outputs["logits"])
        told = {"CORR": found["correlation"], "KDL": found["kdl"], "agreement": found["agreement"]}
        score = task.aggregate(task.score(outputs, targets))
        return {"accuracy": score, **{name: float(value or 0) for name, value in told.items()}}


def shown(values: Sequence[float], base: Sequence[float] | None) -> str:
    """The mean and, against the control of the same seeds, the difference with its two-sided 90 % t interval."""
    mean = f"{statistics.mean(values):.4f}"
    if base is None:
        return mean
    apart = [a - b for a, b in zip(values, base, strict=True)]
    half = float(student_t.ppf(0.95, len(apart) - 1)) * statistics.stdev(apart) / len(apart) ** 0.5
    return f"{mean} ({statistics.mean(apart):+.4f} ± {half:.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=FIELDS, default="digits")
    parser.add_argument("--work", type=Path, help="where finished trainings are kept")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    given = parser.parse_args()
    bench = Bench(FIELDS[given.task], given.work or Path(".benchmarks") / f"distillation-{given.task}", given.device)
    teacher, answers = bench.teacher()
    today, score = f"{datetime.datetime.now(datetime.UTC):%d %B %Y}", teacher.facts["score"]
    print(f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {today}")
    print(f"{given.task}, {len(SEEDS)} seeds; the teacher scores {score:.4f} on validation")
    print("\n| row | accuracy | CORR | KDL | agreement | s an epoch |\n| --- | --- | --- | --- | --- | --- |")
    base: dict[str, list[float]] = {}
    for name, chosen in rows(bench.field).items():
        students = [bench.student(name, chosen, seed, teacher, answers) for seed in SEEDS]
        found = [bench.measured(student, answers) for student in students]
        columns = {metric: [each[metric] for each in found] for metric in found[0]}
        cells = [shown(values, base.get(metric)) for metric, values in columns.items()]
        base = base or columns
        seconds = statistics.median(student.facts["seconds_an_epoch"] for student in students)
        print(f"| {name} | {' | '.join(cells)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()

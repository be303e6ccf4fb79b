"""A teacher is paid for once: another student, loss or schedule asks it nothing, and more answers only what is new."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attar.recipes.workspace import open_workspace
from attar.stages.slots import SLOTS
from tests.support.projects import tiny

TRAIN, CLEAN = 1024, 256 + 256
NETS = """
from pathlib import Path
from torch import nn

class Noted(nn.Sequential):
    def forward(self, x):
        with open(Path(__file__).parent / "asked", "a") as file:
            file.write(f"{len(x)}\\n")
        return super().forward(x)

def teacher(width=32):
    return Noted(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

def student(width=8):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

def deeper():
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
"""
SHORT = ["teacher.epochs=1", "student.epochs=1"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))  # a recipe's folder becomes its first entry
    tiny.write(tmp_path, nets=NETS)
    return tmp_path


def asked(project: Path, *overrides: str, wanted: str = "student") -> tuple[int, dict[str, str]]:
    """A run of the recipe up to the student: how many rows the teacher answered, and what became of each slot."""
    (project / "asked").write_text("")
    work = open_workspace(str(project / "recipe.toml"), SLOTS, project / "store", [*SHORT, *overrides])
    records = {record.slot: record for record in work.run.walk(work.recipe.pipeline.up_to({wanted}))}
    assert [record.error for record in records.values() if record.error] == []
    rows = sum(int(line) for line in (project / "asked").read_text().split())
    return rows, {slot: record.status for slot, record in records.items()}


ANOTHER = {
    "architecture": ["student.options.width=4"],
    "network": ["student.network='nets.py:deeper'", "student.options={}"],
    "loss": ["student.losses=[{kind='dist'}, {kind='dkd'}]"],
    "lambda": ["student.lambda_kd=0.5"],
    "temperature": ["student.losses=[{kind='kd', temperature=1.0}]"],
    "schedule": ["student.schedule='cosine'", "student.epochs=2", "student.learning_rate=0.01", "student.batch=64"],
    "distiller": ["student.distiller={}"],
}


def test_another_student_asks_the_teacher_nothing(project: Path) -> None:
    rows, _ = asked(project)
    assert rows >= 2 * TRAIN + CLEAN
    for what, overrides in ANOTHER.items():
        rows, statuses = asked(project, *overrides)
        assert (rows, statuses) == (0, {"teacher": "reused", "answers": "reused", "student": "made"}), what


def test_more_views_ask_for_the_new_ones_alone(project: Path) -> None:
    asked(project, wanted="answers")
    rows, statuses = asked(project, "answers.views=3", wanted="answers")
    assert (rows, statuses["answers"]) == (TRAIN, "made")
    rows, statuses = asked(project, "answers.views=1", wanted="answers")
    assert (rows, statuses["answers"]) == (0, "made")


def test_what_gc_leaves_is_not_asked_again(project: Path) -> None:
    asked(project, wanted="answers")
    work = open_workspace(str(project / "recipe.toml"), SLOTS, project / "store")
    list(work.store.collect(dry_run=False))
    assert asked(project, "answers.views=3", wanted="answers")[0] == TRAIN


def test_another_teacher_is_asked_everything(project: Path) -> None:
    asked(project, wanted="answers")
    rows, _ = asked(project, "teacher.seed=9", wanted="answers")
    assert rows >= 2 * TRAIN + CLEAN

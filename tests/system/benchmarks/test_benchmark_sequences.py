"""The benchmark of sequence distillation: every row is a recipe that attar takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.recipes.workspace import open_workspace
from attar.stages.distill.stage import Distill
from attar.stages.slots import SLOTS
from benchmarks.sequence_distillation import ROWS, write_losses


@pytest.mark.parametrize("row", [row for row, losses in ROWS.items() if losses])
def test_the_losses_of_a_row_are_those_of_the_student(tmp_path: Path, row: str) -> None:
    override = f"student.losses={write_losses(ROWS[row])}"
    student = open_workspace("numbers", SLOTS, tmp_path, [override]).recipe.pipeline.slots["student"].stage
    assert isinstance(student, Distill)
    assert [loss.kind for loss in student.losses] == [loss["kind"] for loss in ROWS[row]]

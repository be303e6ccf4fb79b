"""The benchmark of ways to distil: its rows are what they are called, and work of other settings is not taken for theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attar.stages.distill.loss_settings import Dist, Dkd
from attar.stages.distill.stage import Control, Distill
from attar.stages.learning.losses import dist, dkd
from benchmarks.distillation_rows import CONTROL, FIELDS, ControlRow, list_rows, select_part
from benchmarks.distillation_workbench import Workbench

FIELD = FIELDS["digits"]


def test_dkd_and_dist_weigh_labels_and_teacher_alike_as_published() -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 10, generator=draw, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(6)
    published = {
        "DKD": dkd(student, teacher, labels, alpha=1, beta=8, temperature=4),
        "DIST": dist(student, teacher, beta=2, gamma=2, temperature=4),
    }
    for name, expected in published.items():
        row = list_rows(FIELD)[name]
        assert not isinstance(row, ControlRow)
        stage = Distill(task="a:b", network="c:d", **row)
        assert stage.lambda_kd == 1 - stage.lambda_kd
        (loss,) = stage.losses
        assert isinstance(loss, Dkd | Dist)
        torch.testing.assert_close(loss.weight * loss(student, teacher, labels), expected)


def test_some_rows_stand_beside_the_control_and_nothing_is_chosen_of_them() -> None:
    part = select_part(FIELD, ["DIST", "DKD"], [3, 4])
    assert list(part.rows) == [CONTROL, "DKD", "DIST"]
    assert (part.seeds, part.whole) == ([3, 4], False)
    assert select_part(FIELD, None, None).whole


def test_what_was_trained_with_other_settings_is_told(tmp_path: Path) -> None:
    bench = Workbench("digits", FIELD, tmp_path, "cpu")
    for _ in range(2):
        bench.run_stage("control/0", Control(task="a:b", network="c:d"))
    with pytest.raises(SystemExit, match="control/0 was"):
        bench.run_stage("control/0", Control(task="a:b", network="c:d", epochs=3))


def test_students_of_another_length_have_folders_of_their_own(tmp_path: Path) -> None:
    longer = replace(FIELD, student={**FIELD.student, "epochs": 24})
    assert Workbench("digits", FIELD, tmp_path, "cpu").name_folder("KD + AT", 3) == "KD-+-AT/3"
    assert Workbench("digits", longer, tmp_path, "cpu").name_folder("KD + AT", 3) == "24-epochs-KD-+-AT/3"

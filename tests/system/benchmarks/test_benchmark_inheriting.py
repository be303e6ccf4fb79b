"""The benchmark of inheriting: its rows are one shape, begun in two ways and trained for two lengths."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.models.networks.residual import residual
from attar.recipes.workspace import open_workspace
from attar.stages.distill.inheritance import find_narrower, find_shorter
from attar.stages.distill.stage import Distill
from attar.stages.slots import SLOTS
from benchmarks.inheriting import CASES, list_rows


@pytest.mark.parametrize("name", list(CASES))
def test_rows_differ_in_their_start_and_their_epochs_alone(name: str, tmp_path: Path) -> None:
    case, kinds = CASES[name], []
    for row in list_rows():
        overrides = case.list_overrides(row.start, row.share, case.rates[0], seed=3)
        stage = open_workspace(case.recipe, SLOTS, tmp_path, overrides).recipe.pipeline.slots["student"].stage
        assert isinstance(stage, Distill)
        assert (stage.seed, stage.start) == (3, None)
        kinds.append((stage.inherit, stage.epochs, stage.model_copy(update={"inherit": False, "epochs": 1})))
    first = kinds[0][2]
    assert all(each == first for *_, each in kinds)
    quarter = max(1, round(case.epochs / 4))
    assert [kind[:2] for kind in kinds] == [(False, quarter), (True, quarter), (False, case.epochs), (True, case.epochs)]


def test_the_shape_on_images_can_be_cut_out_of_its_teacher() -> None:
    teacher, student = residual(width=32, blocks=2), residual(width=24)
    assert dict(find_shorter(teacher, student)) == {"stages": 3}
    assert find_narrower(teacher, student)

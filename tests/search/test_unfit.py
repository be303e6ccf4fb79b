"""What a task or a network rules out is known before anything is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.core.graph import SlotBinding
from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch
from attar.search.unfit import explain_unfit
from tests.support.projects import tiny
from tests.support.projects.toy import Check, Unfit

FIT, UNFIT = SlotBinding(Check(), {}), SlotBinding(Unfit(), {})
KD, SIMKD = '[{ kind = "kd" }]', '[{ kind = "simkd", student = "0", teacher = "0" }]'
RULED_OUT = "student: nothing teaches 2.weight"
"""A loss of the first layer alone reaches no other, where no label has a share in the loss."""


@pytest.mark.parametrize(
    ("slots", "reason"),
    [
        ({"student": FIT}, None),
        ({"student": FIT, "onnx": UNFIT}, "onnx: no such limit"),
        ({"onnx": SlotBinding(Unfit(), {}, keep="ab" * 32)}, None),  # it is there, and not made
        ({"cpu.c1.model": UNFIT, "cpu.c1.engine": FIT, "cpu.c2.model": FIT}, None),
        ({"cpu.c1.model": FIT, "cpu.c1.engine": UNFIT, "cpu.c2.model": UNFIT}, "cpu.c1.engine: no such limit"),
    ],
)
def test_one_candidate_of_a_target_is_enough(slots: Mapping[str, SlotBinding], reason: str | None) -> None:
    assert explain_unfit(slots) == reason


def create_search(folder: Path, space: str, losses: str = "") -> RecipeSearch:
    recipe = tiny.RECIPE.replace("[student]\n", f"[student]\n{losses}")
    tiny.write(folder, recipe=f"{recipe}\n[search]\n{space}\n")
    with tiny.project_folder(folder):
        return RecipeSearch.create("recipe.toml", Store(folder / "store"))


def test_a_value_that_some_others_rule_out_is_left_out_beside_them(tmp_path: Path) -> None:
    search = create_search(tmp_path, f'"student.lambda_kd" = [0.5, 1.0]\n"student.losses" = [{KD}, {SIMKD}]')
    (ruled_out,) = search.ruled_out
    settings = next(each.settings for each in search.variants if each.name == ruled_out)
    assert (settings["student.lambda_kd"], settings["student.losses"][0]["kind"]) == (1.0, "simkd")
    assert search.ruled_out[ruled_out].startswith(RULED_OUT)


def test_a_value_that_all_others_rule_out_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"search\.student\.losses = \[{{'kind': 'simkd'.*{RULED_OUT}.*leave this value out"):
        create_search(tmp_path, f'"student.lambda_kd" = [1.0]\n"student.losses" = [{KD}, {SIMKD}]')
    with pytest.raises(RecipeError, match=r"its 1 combinations of values are all ruled out, such as lambda_kd 1\.0: student:"):
        create_search(tmp_path, '"student.lambda_kd" = [1.0]', f"losses = {SIMKD}\n")
    assert not (tmp_path / "store" / "artifacts").exists()

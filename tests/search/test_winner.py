"""The winner's recipe, written from the searched one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch
from attar.search.result import VariantResult
from attar.search.winner import write_winner

RECIPE = """
[targets.cpu]
threads = 1

[gates]
score_drop = 0.1

[targets.gpu]
threads = 1

[search]
"student.layers" = [{ body = [0, 2] }]
"""
WINNER = VariantResult("v1", "one", {"student.layers": {"body": [0, 2]}}, "kept", "")


def create_search(folder: Path, *overrides: str, recipe: str = RECIPE) -> RecipeSearch:
    file = folder / "recipe.toml"
    file.write_text(recipe, encoding="utf-8")
    space = SearchSpace(dimensions={"student.layers": ({"body": [0, 2]},)})
    return RecipeSearch(str(file), Store(folder / "store"), space, "cpu", overrides)


def test_other_targets_are_left_out_wherever_they_stand(tmp_path: Path) -> None:
    search = create_search(tmp_path, "targets.gpu.threads=2", "targets.cpu.threads=3", "search.trials=1")
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found == {
        "targets": {"cpu": {"threads": 3}},
        "gates": {"score_drop": 0.1},
        "student": {"layers": {"body": [0, 2]}},
    }


def test_a_target_may_come_from_the_command_alone(tmp_path: Path) -> None:
    given = ('targets.cpu.precision="fp32"', "targets.gpu.threads=2", 'search={"student.epochs"=[1, 2]}')
    search = create_search(tmp_path, *given, recipe="[gates]\nscore_drop = 0.1\n")
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found.keys() == {"gates", "targets", "student"}
    assert found["targets"] == {"cpu": {"precision": "fp32"}}


@pytest.mark.parametrize("own", ["[targets.cpu]\nthreads = 1\n", ""])
def test_other_targets_between_which_sections_stand_are_left_out(tmp_path: Path, own: str) -> None:
    recipe = f"[targets.a]\nthreads = 2\n[gates]\nscore_drop = 0.1\n[targets.b]\nthreads = 3\n{own}[onnx]\nopset = 18\n"
    search = create_search(tmp_path, "targets.cpu.threads=4", recipe=recipe)
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found.keys() == {"gates", "onnx", "targets", "student"}
    assert found["targets"] == {"cpu": {"threads": 4}}


def test_a_setting_inside_of_inline_tables(tmp_path: Path) -> None:
    recipe = "student = { epochs = 2 }\n[targets]\ncpu = { threads = 1 }\ngpu = { threads = 2 }\n"
    search = create_search(tmp_path, "targets.cpu.gates.score=0.5", recipe=recipe)
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found == {
        "student": {"epochs": 2, "layers": {"body": [0, 2]}},
        "targets": {"cpu": {"threads": 1, "gates": {"score": 0.5}}},
    }


@pytest.mark.parametrize(
    "recipe",
    [
        "student.epochs = 2\nstudent.options.width = 3\nonnx.opset = 18\ntargets.cpu.threads = 1\n",
        "[student]\nepochs = 2\noptions.width = 3\n[targets]\ncpu.threads = 1\n[onnx]\nopset = 18\n",
    ],
)
def test_settings_beside_keys_with_dots(tmp_path: Path, recipe: str) -> None:
    overrides = ("targets.cpu.gates.score=0.5", "student.other=[1]", "seed=5", "student.losses=[{ kind = 'kd' }]")
    search = create_search(tmp_path, *overrides, recipe=recipe)
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found.pop("seed") == 5
    assert (found["student"].pop("other"), found["student"].pop("losses")) == ([1], [{"kind": "kd"}])
    assert found == {
        "student": {"epochs": 2, "options": {"width": 3}, "layers": {"body": [0, 2]}},
        "onnx": {"opset": 18},
        "targets": {"cpu": {"threads": 1, "gates": {"score": 0.5}}},
    }


def test_each_setting_has_a_line_of_its_own(tmp_path: Path) -> None:
    search = create_search(tmp_path, "seed=5", "student.other=[1]", recipe="student.epochs = 2\n")
    found = tomllib.loads(write_winner(search, WINNER).read_text(encoding="utf-8"))
    assert found == {"seed": 5, "student": {"epochs": 2, "other": [1], "layers": {"body": [0, 2]}}}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    search = create_search(tmp_path)
    (tmp_path / "recipe-found.toml").mkdir()
    with pytest.raises(RecipeError, match="recipe-found"):
        write_winner(search, WINNER)

"""``attar.run``: what it checks before it makes anything."""

from __future__ import annotations

from pathlib import Path

import pytest

import attar
from attar.pipeline.core.errors import InvalidBundleError, RecipeError
from tests.support.projects import tiny


def test_a_recipe_without_a_target_is_refused(tmp_path: Path) -> None:
    recipe = tiny.write(
        tmp_path, recipe=tiny.RECIPE.replace("[targets.cpu]", "[control]").replace('precision = "int8"\nthreads = 1', "")
    )
    with tiny.project_folder(tmp_path), pytest.raises(RecipeError, match="names no target"):
        attar.run(recipe, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_the_bundle_in_production_is_opened_before_anything_is_made(tmp_path: Path) -> None:
    recipe, production = tiny.write(tmp_path), tmp_path / "production"
    production.mkdir()
    with tiny.project_folder(tmp_path), pytest.raises(InvalidBundleError):
        attar.run(recipe, store=tmp_path / "store", targets=(name for name in ["cpu"]), against=production)
    assert not (tmp_path / "store").exists()


def test_targets_that_are_one_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"targets = 'cpu' is one text; write a list, \['cpu'\]"):
        attar.run(tiny.write(tmp_path), store=tmp_path / "store", targets="cpu")


def test_overrides_that_are_one_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"overrides = 'seed=1' is one text; write a list, \['seed=1'\]"):
        attar.run(tiny.write(tmp_path), store=tmp_path / "store", overrides="seed=1")

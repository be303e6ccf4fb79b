"""The searched recipe, from which all trials are made."""

from __future__ import annotations

import tomllib
from pathlib import Path

from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch, get_student
from attar.search.result import VariantResult
from attar.search.winner import write_winner
from tests.support.projects import tiny

SEARCH = '\n[search]\n"student.options.width" = [8, 16]\n'


def test_an_edit_of_the_recipe_during_a_search_changes_no_trial_and_no_found_recipe(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, recipe=tiny.RECIPE + SEARCH)
    with tiny.project_folder(tmp_path):
        search = RecipeSearch.create(str(file), Store(tmp_path / "store"))
        assert "epochs = 20" in search.text
        file.write_text(search.text.replace("epochs = 20", "epochs = 1"))
        (variant, _) = search.variants
        trained = get_student(search.open_trial(variant).recipe.pipeline.slots)
        winner = VariantResult(variant.name, variant.title, variant.settings, "kept", "")
        found = tomllib.loads(write_winner(search, winner).read_text())
    assert trained.epochs == found["student"]["epochs"] == 20

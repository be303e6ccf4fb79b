"""The benchmark of a search: the choice by hand is one of the variants."""

from __future__ import annotations

from pathlib import Path

from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch
from benchmarks.search import BY_HAND, RECIPE


def test_the_choice_by_hand_is_in_the_space_and_is_the_recipe_s_own(tmp_path: Path) -> None:
    search = RecipeSearch.create(RECIPE, Store(tmp_path))
    assert sum(dict(each.settings) == BY_HAND for each in search.variants) == 1
    assert search.student.options["width"] == BY_HAND["student.options.width"]
    assert search.student.options.get("blocks", 1) == BY_HAND["student.options.blocks"]

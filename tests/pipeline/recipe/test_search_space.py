"""The section [search]: its dimensions, its settings, and every mistake in it."""

from __future__ import annotations

from typing import Any

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import MOST_VARIANTS, SearchSpace, read_search_space

WIDTH, DEPTH = "student.options.width", "student.options.blocks"


def read(**section: Any) -> SearchSpace:
    space = read_search_space({"search": section})
    assert space is not None
    return space


def test_a_recipe_without_the_section_has_no_search_space() -> None:
    assert read_search_space({"task": "a:B"}) is None


def test_every_combination_of_the_values_is_one_assignment() -> None:
    space = read(**{WIDTH: [6, 8], DEPTH: {"low": 1, "high": 5, "step": 2}, "trials": 3})
    assert list(space.list_assignments()) == [
        {WIDTH: 6, DEPTH: 1},
        {WIDTH: 6, DEPTH: 3},
        {WIDTH: 6, DEPTH: 5},
        {WIDTH: 8, DEPTH: 1},
        {WIDTH: 8, DEPTH: 3},
        {WIDTH: 8, DEPTH: 5},
    ]
    assert (space.trials, space.objective) == (3, "speedup")


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({}, "names no setting"),
        ({"trials": 3}, "names no setting"),
        ({WIDTH: []}, WIDTH),
        ({WIDTH: 6}, WIDTH),
        ({WIDTH: [6, 6]}, "6 twice"),
        ({WIDTH: {"low": 8, "high": 6}}, "no value"),
        ({WIDTH: {"low": 1.5, "high": 6}}, "low"),
        ({WIDTH: {"low": 1, "high": 6, "stride": 2}}, "step"),
        ({WIDTH: [6], "trials": 0}, "search.trials"),
        ({WIDTH: [6], "trails": 5}, "search.trails: unknown field; did you mean 'trials'"),
        ({WIDTH: [6], "objective": "beauty"}, "search.objective"),
        ({WIDTH: list(range(MOST_VARIANTS + 1))}, str(MOST_VARIANTS)),
        ({WIDTH: {"low": 1, "high": 10**12}}, str(10**12)),
        ({WIDTH: [6] * 10**6}, "1000000 combinations"),
        ({WIDTH: [6], "student.options": [{"width": 8}]}, f"{WIDTH} is a part of search.student.options"),
        ({WIDTH: [6], "parallel": 0}, "search.parallel"),
        ({WIDTH: [6], "resources": {"num_cpus": 0}}, "search.resources.num_cpus"),
        ({WIDTH: [6], "resources": {"cpus": 1}}, "search.resources.cpus: unknown field; did you mean 'num_cpus'"),
        ({WIDTH: [6], "resources": {"num_gpus": 4}}, r"search.resources.num_gpus: a process uses one GPU.* processes = 4"),
    ],
)
def test_a_mistake_in_the_section_is_named(section: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        read(**section)


def test_the_section_is_a_table() -> None:
    with pytest.raises(RecipeError, match="must be a section"):
        read_search_space({"search": 3})

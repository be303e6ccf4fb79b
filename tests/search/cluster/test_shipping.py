"""Which files go with a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.store.store import Store
from attar.search.cluster import shipping
from attar.search.cluster.shipping import ship_recipe
from attar.search.recipe_search import RecipeSearch
from tests.support.projects import tiny

SPACE = '\n[search]\n"student.options.width" = [2, 8]\n"student.network" = ["nets.py:student", "more/wide.py:student"]\n'


def open_search(folder: Path) -> RecipeSearch:
    recipe = tiny.write(folder, recipe=tiny.RECIPE + SPACE)
    (folder / "more").mkdir()
    (folder / "more" / "wide.py").write_text("from helper import student\n")
    (folder / "helper.py").write_text(tiny.NETS)
    (folder / "secrets.env").write_text("x")
    (folder / "unused.py").write_text("")
    return RecipeSearch.create(str(recipe), Store(folder / "store"))


def test_what_counts_in_a_key_is_shipped_and_nothing_else(tmp_path: Path) -> None:
    search = open_search(tmp_path / "project")
    text = search.text
    (tmp_path / "project" / "recipe.toml").write_text(text.replace("epochs = 20", "epochs = 1"))
    with tiny.project_folder(tmp_path / "project"):
        assert ship_recipe(search, tmp_path / "shipped") == "recipe.toml"
    assert (tmp_path / "shipped" / "recipe.toml").read_text() == text
    files = [path for path in (tmp_path / "shipped").rglob("*") if path.is_file()]
    names = {path.relative_to(tmp_path / "shipped").as_posix() for path in files}
    assert names == {"recipe.toml", "task.py", "nets.py", "helper.py", "more/wide.py", "points.npz"}


def test_data_that_are_too_large_to_be_shipped_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipping, "MOST_BYTES", 1000)
    search = open_search(tmp_path / "project")
    with tiny.project_folder(tmp_path / "project"), pytest.raises(RecipeError, match="same path"):
        ship_recipe(search, tmp_path / "shipped")


def test_a_shipped_recipe_is_on_every_node(tmp_path: Path) -> None:
    search = RecipeSearch.create("demo", Store(tmp_path / "store"))
    assert ship_recipe(search, tmp_path / "shipped") == "demo"
    assert not (tmp_path / "shipped").exists()


def test_data_above_the_recipes_folder_are_refused_and_not_written_beside_the_shipped_ones(tmp_path: Path) -> None:
    search = open_search(tmp_path / "project")
    task = tmp_path / "project" / "task.py"
    task.write_text(task.read_text().replace('"points.npz"', '".." / "points.npz"'))
    (tmp_path / "project" / "points.npz").rename(tmp_path / "points.npz")
    with tiny.project_folder(tmp_path / "project"), pytest.raises(RecipeError, match="outside of"):
        ship_recipe(search, tmp_path / "parts" / "shipped")
    assert not (tmp_path / "parts").exists()

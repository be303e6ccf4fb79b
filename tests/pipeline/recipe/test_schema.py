"""The schema of recipes takes what attar itself writes and documents, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from attar.pipeline.recipe.schema import build_schema
from attar.recipes.workspace import SHIPPED
from attar.stages.slots import SLOTS

DOCS = Path(__file__).parents[3] / "docs"


def list_mistakes(recipe: dict[str, Any]) -> list[str]:
    return [error.message for error in jsonschema_rs.iter_errors(build_schema(SLOTS), recipe)]


@pytest.mark.parametrize("page", ["search.md", "cluster.md"])
def test_the_search_spaces_of_the_pages_fit_the_schema(page: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    spaces = [block for block in blocks if "[search]" in block]
    assert spaces
    for block in spaces:
        assert list_mistakes({"task": "task.py:Birds", **tomllib.loads(block)}) == []


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: str(path.stem))
def test_the_shipped_recipes_fit_the_schema(path: Path) -> None:
    assert list_mistakes(tomllib.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "section",
    [
        {"trails": 3},
        {"dimensions": {"student.epochs": [1]}},
        {"resources": {"cpus": 1}},
        {"student.epochs": {"low": 1}},
        {"student.epochs": []},
    ],
)
def test_a_mistake_in_a_search_space_does_not(section: dict[str, Any]) -> None:
    assert list_mistakes({"task": "task.py:Birds", "search": section})

"""What a page tells to write in a recipe can be written there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe import recipe as recipes
from attar.stages.slots import SLOTS
from tests.support.tasks.smoke import DIGITS, RESIDUAL

DOCS = Path(__file__).parents[3] / "docs"
TEACHERS = {"network", "huggingface", "onnx", "function"}


class UnreadCode(Fingerprint):
    """Takes all code to be there: that of a page stands in the reader's project."""

    def require(self, name: str, options: Iterable[str] | None = None) -> None:
        pass


def complete_recipe(text: str) -> list[str]:
    """Return overrides that make a recipe of a part of one."""
    given = tomllib.loads(text)
    lacking = [] if "task" in given else [f"task={DIGITS!r}"]
    if not TEACHERS & given.get("teacher", {}).keys():
        lacking.append(f"teacher.network={RESIDUAL!r}")
    return lacking if "network" in given.get("student", {}) else [*lacking, f"student.network={RESIDUAL!r}"]


def list_parts() -> Iterator[Any]:
    """Yield the TOML on the pages, named by the page. Losses alone are a student's."""
    for page in sorted(DOCS.glob("*.md")):
        for part in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            yield pytest.param(f"[student]\n{part}" if part.startswith("losses") else part, id=page.stem)


@pytest.mark.parametrize("part", list(list_parts()))
def test_a_recipe_can_set_what_a_page_says(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "PLACES", dict.fromkeys(recipes.PLACES, Path))  # any path is there
    (tmp_path / "recipe.toml").write_text(part, encoding="utf-8")
    recipes.load_recipe(tmp_path / "recipe.toml", SLOTS, complete_recipe(part), code=UnreadCode(tmp_path))

"""Code that is edited during a search: no trial is compared with one of other code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import StageError
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.search import trial
from attar.search.code_watch import CodeWatch
from attar.search.recipe_search import RecipeSearch
from attar.search.runner import LocalRunner
from attar.search.stopping import StoppingRule
from tests.support.projects import tiny

SEARCH = """
[search]
"student.network" = ["nets.py:student", "deep.py:student"]
"""
DEEP = "from layers import make_body\n\n\ndef student(width=8):\n    return make_body(width)\n"
LAYERS = """
from torch import nn

def make_body(width):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
"""


@pytest.fixture
def search(tmp_path: Path) -> Iterator[RecipeSearch]:
    (tmp_path / "deep.py").write_text(DEEP)
    (tmp_path / "layers.py").write_text(LAYERS)
    tiny.write(tmp_path, recipe=tiny.RECIPE + SEARCH)
    with tiny.project_folder(tmp_path):
        yield RecipeSearch.create("recipe.toml", Store(tmp_path / "store"))


def write_comment() -> None:
    Path("layers.py").write_text(f"{LAYERS}# a comment\n", encoding="utf-8")


def write_other_layers() -> None:
    Path("layers.py").write_text(LAYERS.replace("nn.ReLU()", "nn.Tanh()"), encoding="utf-8")


def run_trials(search: RecipeSearch, edit: Callable[[], None], begun: list[str], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Run two trials, during the first of which code is edited."""

    def walk(_: RecipeSearch, variant: Any, *__: Any) -> Iterator[Record]:
        begun.append(variant.name)
        edit()
        yield Record("student", "Distill", "failed", "broke", error="the loss is not finite", cause=StageError("no number"))

    monkeypatch.setattr(trial, "walk_trial", walk)
    plans = [trial.TrialPlan(variant, StoppingRule()) for variant in search.variants]
    return list(LocalRunner(CodeWatch.start(search)).run_trials(search, plans, lambda _: None))


def test_code_that_a_variant_alone_uses_ends_the_search(search: RecipeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    with pytest.raises(StageError, match=r"layers\.py changed during the search, .*run the same command again"):
        run_trials(search, write_other_layers, begun, monkeypatch)
    assert begun == ["v1"]


def test_a_comment_ends_no_search(search: RecipeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    ends = run_trials(search, write_comment, begun, monkeypatch)
    assert begun == ["v1", "v2"]
    assert [str(end).partition(": ")[2] for end in ends] == ["the loss is not finite"] * 2

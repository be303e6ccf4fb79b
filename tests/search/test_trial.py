"""Trials: what ends a training, alone and in a team."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import StoppedError
from attar.pipeline.core.progress import report_epoch
from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.pipeline.team import TeamError
from attar.search import trial
from attar.search.recipe_search import RecipeSearch
from attar.search.stopping import StoppingRule
from attar.search.variant import Variant

SPACE = SearchSpace(dimensions={"student.options.width": (8, 16)})
PLAN = trial.TrialPlan(Variant(1, {"student.options.width": 8}), StoppingRule({2: 0.9}))


@pytest.mark.parametrize("scores", [[0.5, 0.6, 0.7], [0.5]])
def test_a_team_that_is_stopped_early_has_not_failed(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """A team knows one way to end early; see ``Team.run``. What else ends it is a failure."""

    def walk(*_: Any) -> Iterator[Record]:
        try:
            for epoch, score in enumerate(scores, 1):
                report_epoch("student", {"epoch": epoch, "score": score})
            raise ValueError("a wire was cut")
        except (StoppedError, ValueError) as error:
            raise TeamError(f"process 0: {error}") from error

    monkeypatch.setattr(trial, "walk_trial", walk)
    search = RecipeSearch("recipe.toml", Store(Path("store")), SPACE, "cpu")
    if len(scores) > 1:
        training = trial.train_student(search, PLAN, lambda _: None)
        assert training == trial.StudentTraining({1: 0.5, 2: 0.6}, stopped=True)
    else:
        with pytest.raises(TeamError, match="wire was cut"):
            trial.train_student(search, PLAN, lambda _: None)

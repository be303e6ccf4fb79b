"""Trials: what ends a training, alone and in a team."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from attar.pipeline.core.error_context import name_slot_in_errors
from attar.pipeline.core.errors import CorruptArtifactError, StageError, StoppedError, StoreError
from attar.pipeline.core.progress import report_epoch
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.pipeline.team import TeamError
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import Comparison, Gate, Metric
from attar.proof.ledger.candidates import CandidateMeasurement
from attar.proof.ledger.ledger import Hop
from attar.search import trial
from attar.search.code_watch import CodeWatch
from attar.search.recipe_search import RecipeSearch
from attar.search.runner import LocalRunner
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


def end_trial(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> trial.TrialEnd:
    """Return how a trial ends whose student breaks for this reason."""
    broken = Record("student", "Distill", "failed", "broke", error=f"student: {cause}", cause=cause)
    monkeypatch.setattr(trial, "walk_trial", lambda *_: iter([broken]))
    search = RecipeSearch("recipe.toml", Store(Path("store")), SPACE, "cpu")
    (end,) = LocalRunner(CodeWatch(Fingerprint(Path()), {})).run_trials(search, [PLAN], lambda _: None)
    return end


def test_a_training_that_breaks_is_the_failure_of_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    end = end_trial(monkeypatch, StageError("the loss is not finite"))
    assert isinstance(end, StageError)
    assert str(end) == "width 8: student: the loss is not finite"


def test_a_store_that_fails_ends_the_search_and_no_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = StageError("answers was damaged and is discarded")
    damaged.__cause__ = CorruptArtifactError("test.safetensors was changed")
    for cause in (StoreError("no answer"), damaged):
        with pytest.raises(StoreError, match=f"student: {cause}"):
            end_trial(monkeypatch, cause)


def break_slot(error: Exception) -> StageError:
    """Return what a run makes of an error inside a stage."""
    with pytest.raises(StageError) as broken, name_slot_in_errors("student"):
        raise error
    return broken.value


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "weights.safetensors"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        StageError("process 1: student: No space left on device"),
    ],
)
def test_a_disk_that_is_full_inside_a_stage_ends_the_search_too(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that write files themselves, and other processes, tell it in words alone."""
    with pytest.raises(StoreError, match=r"student.*(No space left|quota exceeded)"):
        end_trial(monkeypatch, break_slot(error))


def test_a_file_that_is_gone_is_the_failure_of_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = break_slot(FileNotFoundError(errno.ENOENT, "No such file or directory", "words.txt"))
    assert isinstance(end_trial(monkeypatch, gone), StageError)


@pytest.mark.parametrize(
    ("metric", "value", "limit", "breaks"),
    [("score_drop", 0.2, 0.1, True), ("score", 0.2, 0.9, True), ("correlation", 0.2, 0.9, False), ("kdl", 2.0, 1.0, False)],
)
def test_a_broken_promise_is_about_the_score_or_not(metric: Metric, value: float, limit: float, breaks: bool) -> None:
    bounds = ConfidenceBounds(value - 0.01, value + 0.01)
    gate = Gate(Comparison(metric, "engine", "teacher", value, bounds, 100), limit, required=True)
    measured = CandidateMeasurement("c1", "int8", {}, "measured", None)
    outcome = trial.judge_candidate(measured, Hop("engine"), [gate])
    assert (len(outcome.broken), outcome.breaks_score) == (1, breaks)

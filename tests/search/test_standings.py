"""What is known of the variants, from their timing to their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from attar.pipeline.core.errors import StageError
from attar.pipeline.recipe.search_space import ObjectiveName
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.ledger.speeds import EngineSpeed
from attar.search.objective import SearchObjective
from attar.search.speeds import VariantSpeeds
from attar.search.standings import Standings
from attar.search.trial import CandidateOutcome, TrialOutcome
from attar.search.variant import Variant

LIMIT = 3.0


def make_speeds(width: int, *speedups: float | None, doubt: float = 0.1) -> VariantSpeeds:
    """Return the engines ``c0``, ``c1`` and so on; None was refused."""
    engines = {
        f"c{place}": EngineSpeed("refused")
        if speedup is None
        else EngineSpeed(None, {1: 100 / speedup}, 1000, speedup, ConfidenceBounds(speedup - doubt, speedup + doubt))
        for place, speedup in enumerate(speedups)
    }
    return VariantSpeeds(Variant(width, {"student.options.width": width}), engines, 1)


def make_outcome(broken: Mapping[str, Sequence[str]], score: float = 0.9) -> TrialOutcome:
    """Return candidates with the promises that each breaks."""
    candidates = [
        CandidateOutcome(name, name, score, 0.99, 0.95, 1000, tuple(promises), 0.5 * bool(promises), bool(promises))
        for name, promises in broken.items()
    ]
    return TrialOutcome({1: 0.9}, candidates, 0.9)


def make_standings(*timed: VariantSpeeds, objective: ObjectiveName = "speedup") -> Standings:
    return Standings(timed, SearchObjective(objective), LIMIT, epochs=1)


def test_what_is_slower_than_promised_or_was_refused_is_decided_before_any_training() -> None:
    slow, unsure, refused = make_speeds(1, 2.8), make_speeds(2, 2.8, doubt=0.3), make_speeds(3, None)
    standings = make_standings(slow, unsure, refused)
    assert {name: row.status for name, row in standings.results.items()} == {"v1": "too slow", "v3": "refused"}
    assert standings.results["v1"].reason == "speedup 2.8, promised at least 3"
    assert standings.list_undecided() == [unsure]


def test_an_engine_that_breaks_the_answers_is_no_winner_however_fast_it_is() -> None:
    variant, slower = make_speeds(8, 3.5, 6.0), make_speeds(12, 5.0)
    standings = make_standings(variant, slower)
    standings.record(variant, make_outcome({"c0": (), "c1": ["score drop"]}))
    winner = standings.find_winner()
    assert winner is not None
    assert (winner.engine, winner.speedup) == ("c0", 3.5)
    assert standings.rivals[0].prior == (True, 3.5), "no training is ended for the speed of an engine that breaks a promise"
    assert standings.can_win(slower)
    standings.record(slower, make_outcome({"c0": ()}))
    assert [row.name for row in standings.list_rows()] == ["v12", "v8"]


def test_a_trained_engine_keeps_the_promised_speed_as_long_as_its_upper_bound_does() -> None:
    unsure, other = make_speeds(8, 2.95), make_speeds(12, 2.5, 6.0)
    standings = make_standings(unsure, other)
    assert standings.record(unsure, make_outcome({"c0": ()})).status == "kept"
    row = standings.record(other, make_outcome({"c0": (), "c1": ["score drop"]}))
    assert (row.status, row.reason) == ("broke", "speedup 2.5, promised at least 3")
    assert row.shortfall == pytest.approx(0.5 / 3)


def test_an_engine_that_is_fast_enough_comes_before_one_that_may_be() -> None:
    variant = make_speeds(8, 2.95, 3.05)
    standings = make_standings(variant, objective="score")
    assert standings.record(variant, make_outcome({"c0": (), "c1": ()})).engine == "c1"


def test_a_variant_that_is_fast_enough_comes_before_one_that_may_be_and_has_a_better_score() -> None:
    unsure, sure, other = make_speeds(8, 2.95), make_speeds(12, 5.0), make_speeds(16, 2.9, doubt=0.2)
    standings = make_standings(unsure, sure, other, objective="score")
    standings.record(unsure, make_outcome({"c0": ()}, score=0.95))
    assert standings.can_win(sure)
    assert standings.can_win(other), "no score is known before a training"
    standings.record(sure, make_outcome({"c0": ()}, score=0.9))
    winner = standings.find_winner()
    assert winner is not None
    assert (winner.name, winner.score) == ("v12", 0.9)
    assert not standings.can_win(other)


@pytest.mark.parametrize(
    ("objective", "wins"), [("speedup", True), ("score", True), ("correlation", False), ("agreement", False)]
)
def test_a_training_is_ended_for_a_better_score_only_where_the_score_decides_or_the_speed(
    objective: ObjectiveName, wins: bool
) -> None:
    kept = make_speeds(8, 4.0)
    standings = make_standings(kept, objective=objective)
    standings.record(kept, make_outcome({"c0": ()}))
    assert standings.rivals[0].wins_by_score is wins


def test_a_trained_engine_that_was_not_timed_is_left_out() -> None:
    half, none = make_speeds(8, 4.0, None), make_speeds(12, 4.0)
    standings = make_standings(half, none)
    assert standings.record(half, make_outcome({"c1": (), "c0": ()})).engine == "c0"
    row = standings.record(none, make_outcome({"c1": ()}))
    assert (row.status, row.reason) == ("failed", "none of its trained engines was timed untrained: c1")


def test_what_ended_early_or_failed_is_a_row_with_the_reason() -> None:
    stopped, failed = make_speeds(8, 4.0), make_speeds(12, 4.0)
    standings = make_standings(stopped, failed)
    assert standings.record(stopped, TrialOutcome({1: 0.5, 2: 0.6})).epochs == 2
    assert standings.record(failed, StageError("the loss diverged")).reason == "the loss diverged"
    assert (standings.find_winner(), standings.rivals) == (None, [])


def test_untrained_rows_say_whether_trials_or_a_better_one_left_them_out() -> None:
    fast, winner, slow = make_speeds(4, 9.0), make_speeds(8, 5.0), make_speeds(12, 4.0)
    standings = make_standings(fast, winner, slow)
    standings.record(winner, make_outcome({"c0": ()}))
    rows = {row.name: (row.status, row.reason) for row in standings.list_rows()}
    assert rows["v4"] == ("not reached", "all trials were used")
    assert rows["v12"] == ("cannot win", "a better one keeps all promises")


def test_the_prior_of_a_rival_is_its_size_where_the_smallest_is_sought() -> None:
    variant = make_speeds(8, 4.0)
    standings = make_standings(variant, objective="size")
    standings.record(variant, make_outcome({"c0": ()}))
    assert standings.rivals[0].prior == standings.get_prior(variant) == (True, -1000.0)

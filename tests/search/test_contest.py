"""Which variants are timed again, side by side."""

from __future__ import annotations

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.search.contest import Contest, overlap
from attar.search.result import VariantResult


def make_row(name: str, low: float, high: float) -> VariantResult:
    bounds = ConfidenceBounds(low, high)
    return VariantResult(name, name, {}, "kept", "", speedup=(low + high) / 2, bounds=bounds)


BEST = make_row("best", 3.5, 4.9)
CLOSE, FAR = make_row("close", 3.1, 3.9), make_row("far", 2.0, 3.4)


def test_those_whose_bounds_reach_the_best_are_timed_beside_it_once() -> None:
    contest = Contest()
    assert contest.invite(BEST, [BEST, CLOSE, FAR]) == ["best", "close"]
    assert contest.invite(BEST, [BEST, CLOSE, FAR]) == []
    assert [contest.was_joined_by(name) for name in ("best", "close", "far")] == [True, True, False]


def test_another_best_is_timed_beside_the_same_ones_anew() -> None:
    contest = Contest()
    contest.invite(BEST, [CLOSE])
    assert contest.invite(CLOSE, [BEST, FAR]) == ["close", "best", "far"]
    assert contest.invite(CLOSE, [BEST]) == []


def test_bounds_that_meet_in_one_value_overlap_and_what_was_not_timed_does_not() -> None:
    assert overlap(make_row("one", 1.0, 2.0), make_row("other", 2.0, 3.0))
    assert not overlap(BEST, VariantResult("refused", "", {}, "refused", ""))

"""Variants that a first timing cannot tell apart, and what a timing in the same rounds says of them."""

from __future__ import annotations

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.search.result import VariantResult
from attar.search.speed_comparisons import SpeedComparisons, have_common_speed


def make_row(name: str, low: float, high: float) -> VariantResult:
    bounds = ConfidenceBounds(low, high)
    return VariantResult(name, name, {}, "kept", "", speedup=(low + high) / 2, bounds=bounds)


BEST = make_row("best", 3.5, 4.9)
CLOSE, CLOSER, FAR = make_row("close", 3.1, 3.9), make_row("closer", 3.2, 4.0), make_row("far", 2.0, 2.7)


def test_those_whose_bounds_reach_the_best_are_doubtful_until_they_were_compared_with_it() -> None:
    comparisons = SpeedComparisons()
    assert comparisons.list_doubtful(BEST, [BEST, CLOSE, CLOSER, FAR]) == [CLOSER, CLOSE]
    comparisons.record({"best": 4.0, "close": 5.0})
    assert comparisons.list_doubtful(BEST, [BEST, CLOSE, CLOSER, FAR]) == [CLOSER]
    assert comparisons.get_faster("best", "close") == comparisons.get_faster("close", "best") == "close"
    assert comparisons.get_faster("best", "closer") is None


def test_a_speed_that_is_apart_by_less_than_the_margin_is_doubtful_on_both_sides() -> None:
    rows = [make_row("slower", 2.8, 3.0), make_row("faster", 6.0, 6.2), make_row("fast", 6.2, 6.4)]
    doubtful = SpeedComparisons().list_doubtful(BEST, rows)
    assert [each.name for each in doubtful] == ["faster", "slower"]  # 3.0 * 1.25 > 3.5, 6.0 < 4.9 * 1.25 = 6.125
    assert not any(have_common_speed(each, BEST) for each in rows)


def test_all_of_one_timing_are_compared_and_a_later_one_changes_nothing() -> None:
    comparisons = SpeedComparisons()
    comparisons.record({"one": 3.0, "two": 2.0, "three": 1.0})
    comparisons.record({"three": 9.0, "two": 2.0, "four": 1.0})
    assert comparisons.get_faster("two", "three") == "two"
    assert comparisons.get_faster("three", "four") == "three"


def test_bounds_that_meet_in_one_value_have_a_common_speed_and_what_was_not_timed_has_none() -> None:
    assert have_common_speed(make_row("one", 1.0, 2.0), make_row("other", 2.0, 3.0))
    assert not have_common_speed(BEST, VariantResult("refused", "", {}, "refused", ""))

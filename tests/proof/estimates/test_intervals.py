"""Intervals: that the bounds rest on the same numbers as the ledger, and on whole samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.task import Arrays, Kind, Output, Split, SplitName, Task, hits
from attar.pipeline.core.errors import StageError
from attar.proof.estimates import intervals, metrics, statistics
from attar.proof.estimates.sums import Numbers, ShareSums, Sums, compute_mean

LOGITS = np.random.default_rng(0).standard_normal((60, 4))
NEAR = LOGITS + 0.5 * np.random.default_rng(1).standard_normal((60, 4))


class HitShare(Task):
    """A share of hits."""

    outputs = {"logits": Output(("batch", 4), target="label")}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        raise NotImplementedError("only its score is asked for here")

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["label"])


class F1(HitShare):
    """Of statistics (true positive, false positive, false negative)."""

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        hit, alarm, miss = statistics.sum(0)
        return float(2 * hit / (2 * hit + alarm + miss)) if hit + alarm + miss else float("nan")


def of_output(kind: Kind, expected: Numbers, got: Numbers) -> dict[str, intervals.BoundsSource]:
    return intervals.list_metric_bounds(metrics.compare_outputs(kind, expected, got))


def value(rest: intervals.BoundsSource) -> float:
    assert isinstance(rest, Sums)
    return rest.value


@pytest.mark.parametrize("kind", ["logits", "values"])
def test_every_number_but_the_largest_difference_has_bounds(kind: Kind) -> None:
    known = metrics.compare_outputs(kind, LOGITS, NEAR).numbers
    bounds = intervals.compute_bounds(of_output(kind, LOGITS, NEAR))
    assert {name for name in known if known[name] is not None} - {"largest_difference"} == bounds.keys()
    for name, (low, high) in bounds.items():
        assert low < (known[name] or 0) < high


def test_sums_of_values_far_from_zero_do_not_cancel() -> None:
    near = value(of_output("values", LOGITS, NEAR)["correlation"])
    assert value(of_output("values", LOGITS + 1e6, NEAR + 1e6)["correlation"]) == pytest.approx(near, abs=1e-9)


def test_agreement_is_a_share_of_samples_where_a_sample_has_one_row() -> None:
    agreed = int((LOGITS.argmax(1) == NEAR.argmax(1)).sum())
    assert of_output("logits", LOGITS, NEAR)["agreement"] == statistics.bound_proportion(agreed, 60)
    rows = of_output("logits", LOGITS.reshape(20, 3, 4), NEAR.reshape(20, 3, 4))["agreement"]
    assert isinstance(rows, Sums)
    assert len(rows.columns) == 20  # samples, not rows: three rows of one sample are not three observations
    assert value(rows) == pytest.approx(agreed / 60)


def bound_agreement(values: Numbers, rows: Numbers | float = 1.0) -> tuple[float, float]:
    """Bounds of the agreement of samples, from the share of the rows of each that agree."""
    weights = np.broadcast_to(rows, values.shape).astype(np.float64)
    return intervals.compute_bounds({"": intervals.bound_share(np.stack([values * weights, weights], 1))})[""]


def test_that_no_row_differs_does_not_show_that_none_does() -> None:
    """100 samples of 7 rows tell as much as 100 of one; where one has as many rows as all others, there are four."""
    once = statistics.bound_proportion(100, 100)
    assert bound_agreement(np.ones(100), 7.0) == bound_agreement(np.ones(100)) == once
    unlike = bound_agreement(np.ones(100), np.r_[99.0, np.ones(99)])
    assert unlike[0] == pytest.approx(statistics.bound_proportion(4, 4)[0], abs=0.01)


def test_more_agreement_never_lowers_the_bound_below_it() -> None:
    """Of 100 samples with 10 labels more and more differ, by the sample and by the label."""
    order = np.arange(1000).reshape(100, 10)
    for ranked in (order, np.random.default_rng(0).permutation(1000).reshape(100, 10)):
        lows = [bound_agreement((ranked >= flipped).mean(1))[0] for flipped in (0, 1, 2, 5, 9, 10, 11, 15, 20, 25, 90, 400, 1000)]
        assert lows == sorted(lows, reverse=True)


@pytest.mark.parametrize("share_left", [0.0, 0.5])
def test_an_agreement_at_its_limit_passes_as_seldom_as_promised(share_left: float) -> None:
    """One of 50 sequences is wrecked, on average: in a third of the validations none is, and nothing differs."""
    rng = np.random.default_rng(0)
    limit, passes = 1 - (1 - share_left) / 50, 0
    for _ in range(200):
        values = np.where(rng.random(50) < 1 / 50, share_left, 1.0)
        passes += bound_agreement(values, rng.integers(5, 41, 50).astype(float))[0] >= limit
    assert passes / 200 <= 0.07


def test_a_share_of_many_rows_is_bounded_as_seen_where_samples_are_alike() -> None:
    """Of 1,000 sequences with an agreement of 0.85 one more without any hardly counts."""
    values = np.random.default_rng(0).binomial(20, 0.85, 1000) / 20
    plain = statistics.bootstrap_sums(np.stack([values, np.ones(1000)], 1), compute_mean)
    low, high = bound_agreement(values)
    assert high == plain.high
    assert plain.low - 0.0025 < low < plain.low


def test_a_mean_score_is_a_share_if_all_values_may_be_shares() -> None:
    assert isinstance(intervals.bound_mean(np.array([0, 0.5, 1])), ShareSums)
    assert not isinstance(intervals.bound_mean(np.array([0, 0.5, 2])), ShareSums)
    assert not isinstance(intervals.bound_mean(np.array([-1, 0.5, 1])), ShareSums)


def test_a_correlation_resamples_samples_not_entries() -> None:
    """Each sample is told three times over: no more is known than from one telling, and the bounds must not get narrower."""
    once = intervals.compute_bounds({"r": of_output("values", LOGITS, NEAR)["correlation"]})["r"]
    tripled = (np.tile(side, (1, 3)) for side in (LOGITS, NEAR))
    assert intervals.compute_bounds({"r": of_output("values", *tripled)["correlation"]})["r"] == pytest.approx(once)


def test_a_constant_side_has_the_correlation_zero_in_every_resample() -> None:
    found = of_output("logits", np.zeros_like(LOGITS), NEAR)["correlation"]
    assert intervals.compute_bounds({"r": found}) == {"r": (0, 0)}


def column(*numbers: float) -> Numbers:
    return np.array(numbers)[:, None]


def test_a_drop_of_hits_has_paired_bounds() -> None:
    before, after = column(1, 1, 1, 0, 1), column(1, 0, 0, 1, 1)
    assert intervals.bound_score_drop(HitShare(), before, after) == statistics.bound_paired_drop(lost=2, won=1, samples=5)
    assert intervals.bound_score(HitShare(), after) == statistics.bound_proportion(3, 5)


def test_a_drop_of_other_numbers_is_resampled() -> None:
    before, after = column(1, 0.5, 1, 0.25), column(1, 0, 0, 0.25)
    low, high = intervals.bound_score_drop(HitShare(), before, after)
    assert low < 0.375 < high
    assert value(intervals.bound_score(HitShare(), after)) == pytest.approx(0.3125)


def test_a_task_s_own_aggregate_is_resampled_by_rows() -> None:
    before = np.tile([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], (25, 1))
    after = before.copy()
    after[:10] = [0, 0, 1]
    low, high = intervals.bound_score_drop(F1(), before, after)
    drop = F1().aggregate(before) - F1().aggregate(after)
    generator = np.random.default_rng(5)
    drawn = [generator.integers(100, size=100) for _ in range(400)]
    spread = np.std([F1().aggregate(before[rows]) - F1().aggregate(after[rows]) for rows in drawn])
    assert low < drop < high
    assert 1 < (high - low) / (2 * 1.645 * spread) < 1.4  # of a nearly normal statistic; two changes more are allowed for


def test_an_aggregate_that_some_samples_leave_undefined_says_what_to_do() -> None:
    rare: Any = np.zeros((50, 3))
    rare[0] = [1, 0, 0]
    with pytest.raises(StageError, match=r"F1\.aggregate "):
        intervals.bound_score(F1(), rare)


def test_bounds_of_many_are_those_of_each_alone() -> None:
    rests = of_output("logits", LOGITS, NEAR)
    for name, bounds in intervals.compute_bounds(rests).items():
        assert bounds == pytest.approx(intervals.compute_bounds({name: rests[name]})[name])


def ones(hits: int, samples: int = 40) -> npt.NDArray[np.float64]:
    """So many ones, then zeros."""
    return (np.arange(samples) < hits).astype(np.float64)


def test_a_drop_of_hits_counts_what_was_lost_and_what_was_won() -> None:
    before, after = ones(30), ones(40)
    after[:4] = 0  # 4 lost, 10 won
    assert intervals.bound_score_drop(HitShare(), before[:, None], after[:, None]) == statistics.bound_paired_drop(4, 10, 40)


def test_only_the_first_statistic_is_averaged() -> None:
    others = np.full(40, 7.0)
    before, after = np.stack([ones(30), others], 1), np.stack([ones(25), others], 1)
    assert intervals.bound_score_drop(HitShare(), before, after) == statistics.bound_paired_drop(5, 0, 40)
    assert intervals.bound_score(HitShare(), before) == statistics.bound_proportion(30, 40)


@pytest.mark.parametrize(("before", "after"), [(ones(30) / 2, ones(25)), (ones(30), ones(25) / 2)])
def test_a_drop_of_what_is_no_hit_is_resampled(before: Numbers, after: Numbers) -> None:
    drop = intervals.bound_score_drop(HitShare(), before[:, None], after[:, None])
    assert drop == statistics.bootstrap_drop(before[:, None], after[:, None], HitShare().aggregate)


def test_a_drop_of_another_aggregate_is_resampled() -> None:
    class Half(HitShare):
        def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
            return float(statistics.mean()) / 2

    before, after = ones(30)[:, None], ones(25)[:, None]
    assert intervals.bound_score_drop(Half(), before, after) == statistics.bootstrap_drop(before, after, Half().aggregate)

"""Bounds against numbers worked by hand, against scipy, against published intervals, and what must hold for any counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from attar.proof.estimates import statistics
from attar.proof.estimates.bounds import LEVEL, estimate_sample_size
from attar.proof.estimates.statistics import (
    Z,
    bootstrap_rows,
    bootstrap_sums,
    bound_bca,
    bound_median,
    bound_paired_drop,
    bound_proportion,
)
from attar.proof.estimates.sums import Numbers

Bounds = tuple[float, float]
Hits = tuple[int, int]
"""Hits, samples."""
Changes = tuple[int, int, int]
"""Lost, won, samples."""


@st.composite
def counted(draw: st.DrawFn) -> Hits:
    samples = draw(st.integers(1, 3000))
    return draw(st.integers(0, samples)), samples


@st.composite
def changes(draw: st.DrawFn) -> Changes:
    samples = draw(st.integers(1, 3000))
    lost = draw(st.integers(0, samples))
    return lost, draw(st.integers(0, samples - lost)), samples


def wider(one: Bounds, other: Bounds) -> Bounds:
    return min(one[0], other[0]), max(one[1], other[1])


# Proportions


def test_no_hit_of_ten_does_not_show_that_there_are_none() -> None:
    # Wilson's bound solves (0 - p)^2 = Z^2 p (1 - p) / 10: p = Z^2 / (10 + Z^2) = 2.70554 / 12.70554 = 0.212942
    assert bound_proportion(0, 10) == pytest.approx((0, 0.212942), abs=1e-6)
    assert bound_proportion(10, 10) == pytest.approx((1 - 0.212942, 1), abs=1e-6)


def wilson(hits: int, samples: int) -> Bounds:
    low, high = stats.binomtest(hits, samples).proportion_ci(2 * LEVEL - 1, "wilson")
    return float(low), float(high)


def skewed(hits: int, samples: int) -> Bounds:
    """The corrected bounds alone: both solve share - p = -+ Z sqrt(p q / n) + k (1 - 2 p) with k = (Z^2 - 1) / 6 n.

    For the third central moment p q (1 - 2 p) over the variance p q is 1 - 2 p. Squared, this is a quadratic in p.
    """
    share, k, c = hits / samples, (Z**2 - 1) / (6 * samples), Z**2 / samples
    low, high = sorted(np.roots([(1 - 2 * k) ** 2 + c, -2 * (share - k) * (1 - 2 * k) - c, (share - k) ** 2]).real)
    return (0 if hits == 0 else low), (1 if hits == samples else high)


@pytest.mark.parametrize("count", [(1, 10), (3, 10), (5, 10), (9, 10), (81, 263), (198, 200), (9999, 10000)])
def test_a_proportion_has_the_wider_of_wilsons_and_the_corrected_bounds(count: Hits) -> None:
    assert bound_proportion(*count) == pytest.approx(wider(wilson(*count), skewed(*count)), abs=1e-9)


@given(counted())
def test_a_proportion_is_symmetric_and_within_its_bounds(count: Hits) -> None:
    hits, samples = count
    low, high = bound_proportion(hits, samples)
    assert 0 <= low <= hits / samples <= high <= 1
    assert bound_proportion(samples - hits, samples) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@given(counted())
def test_bounds_of_a_proportion_rise_with_the_hits_and_close_with_the_samples(count: Hits) -> None:
    hits, samples = count
    low, high = bound_proportion(hits, samples)
    twice = bound_proportion(2 * hits, 2 * samples)
    assert twice[0] >= low
    assert twice[1] <= high
    if hits < samples:
        more = bound_proportion(hits + 1, samples)
        assert more[0] > low
        assert more[1] > high or high == 1


@pytest.mark.parametrize("count", [(-1, 5), (6, 5), (0, 0)])
def test_a_proportion_needs_samples_and_no_more_hits(count: Hits) -> None:
    with pytest.raises(ValueError, match=f"{count[0]} hits of {count[1]} samples"):
        bound_proportion(*count)


# Paired proportions


def test_that_nothing_changed_does_not_show_that_nothing_changes() -> None:
    # Of no losses the most likely are the fewest, all changes being losses: E[D^2] = d. (0 - d)^2 = Z^2 d (1 - d) / 200 gives
    # d = Z^2 / (200 + Z^2) = 2.70554 / 202.70554 = 0.0133471
    assert bound_paired_drop(0, 0, 200) == pytest.approx((-0.0133471, 0.0133471), abs=1e-7)


def test_at_no_drop_the_test_is_mcnemars(monkeypatch: pytest.MonkeyPatch) -> None:
    # McNemar: (lost - won)^2 / (lost + won) = 8^2 / 16 = 4 = 2^2, whatever the samples; at 0 there is no skewness
    monkeypatch.setattr(statistics, "Z", 2.0)
    for samples in (16, 100, 10_000):
        assert bound_paired_drop(12, 4, samples)[0] == pytest.approx(0, abs=1e-9)


def test_a_bound_solves_the_score_equation_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1 lost, 1 won of 4, a true drop of 1/2: b = (8 - 1 + 1) / 2 - 2 = 2, c = -1/4, gained = (sqrt(4 + 8) - 2) / 16 = 0.0915064
    # and E[D^2] = 2 gained + 1/2 = 0.6830127; variance 0.6830127 - 1/4 = 0.4330127; third 1/2 - 3/2 0.6830127 + 1/4 = -0.2745191
    assert statistics.estimate_change_probability(1, 1, 4, 0.5) == pytest.approx(0.6830127)
    # 1/2 is z sqrt(0.4330127 / 4) + (z^2 - 1) 0.2745191 / (6 4 0.4330127) = 0.3290185 z + 0.0264156 (z^2 - 1) above 0 for
    # z = (sqrt(0.3290185^2 + 4 0.0264156 0.5264156) - 0.3290185) / (2 0.0264156) = (0.4048154 - 0.3290185) / 0.0528312 = 1.434700
    monkeypatch.setattr(statistics, "Z", 1.434700)
    assert bound_paired_drop(1, 1, 4)[1] == pytest.approx(0.5, abs=1e-6)


def solved(lost: int, won: int, samples: int, *, correct: bool) -> Bounds:
    """Tango's bounds by scipy: the likelihood maximised numerically at each drop, the score equation solved by Brent's method."""

    def gained(drop: float) -> float:
        def surprise(p: float) -> float:
            chances = np.array([p + drop, p, 1 - 2 * p - drop])
            return -float(np.array([lost, won, samples - lost - won]) @ np.log(chances))

        edges = (max(0.0, -drop) + 1e-13, (1 - drop) / 2 - 1e-13)
        return float(optimize.minimize_scalar(surprise, bounds=edges, method="bounded", options={"xatol": 1e-13}).x)

    def score(drop: float, z: float) -> float:
        square = 2 * gained(drop) + drop
        variance, third = square - drop**2, drop - 3 * drop * square + 2 * drop**3
        skewness = (z**2 - 1) * third / (6 * samples * variance) if correct else 0.0
        return (lost - won) / samples - drop - z * math.sqrt(variance / samples) - skewness

    middle = (lost - won) / samples
    z = statistics.Z
    return (
        optimize.brentq(score, -1 + 1e-9, middle - 1e-9, args=(z,)),
        optimize.brentq(score, middle + 1e-9, 1 - 1e-9, args=(-z,)),
    )


@pytest.mark.parametrize(
    "change", [(1, 7, 21), (16, 8, 86), (14, 5, 70), (5, 1, 200), (60, 40, 1000), (1, 0, 44), (700, 500, 10_000)]
)
def test_a_drop_has_the_wider_of_tangos_and_the_corrected_bounds(change: Changes) -> None:
    expected = wider(solved(*change, correct=False), solved(*change, correct=True))
    assert bound_paired_drop(*change) == pytest.approx(expected, abs=1e-6)


PUBLISHED: dict[str, tuple[Changes, float, Bounds]] = {
    "Tango 1998, contact lenses": ((0, 1, 44), 0.90, (-0.096, 0.037)),
    "Tango 1998, crossover": ((9, 3, 32), 0.95, (-0.027, 0.390)),
    "Agresti and Min 2005": ((16, 8, 86), 0.95, (-0.020, 0.207)),
    "Fagerland et al. 2014": ((1, 7, 21), 0.95, (-0.517, -0.026)),
    "Chang et al. 2024": ((25, 2, 102), 0.95, (0.139, 0.321)),
}
"""Two-sided intervals without the correction."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_intervals_are_met_and_never_undercut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, level, published = PUBLISHED[name]
    monkeypatch.setattr(statistics, "Z", stats.norm.ppf((1 + level) / 2))
    assert solved(*change, correct=False) == pytest.approx(published, abs=6e-4)
    bounds = bound_paired_drop(*change)
    assert wider(bounds, published) == pytest.approx(bounds, abs=6e-4)
    met = [got == pytest.approx(expected, abs=6e-4) for got, expected in zip(bounds, published, strict=True)]
    assert any(met), "at least the bound on the side of the longer tail needs no correction"


@given(changes())
def test_a_drop_mirrors_and_lies_within_its_bounds(change: Changes) -> None:
    lost, won, samples = change
    low, high = bound_paired_drop(lost, won, samples)
    assert -1 <= low <= (lost - won) / samples <= high <= 1
    assert bound_paired_drop(won, lost, samples) == (-high, -low)


@given(changes())
def test_bounds_of_a_drop_rise_with_the_losses_and_close_with_the_samples(change: Changes) -> None:
    lost, won, samples = change
    low, high = bound_paired_drop(lost, won, samples)
    twice = bound_paired_drop(2 * lost, 2 * won, 2 * samples)
    assert twice[0] >= low
    assert twice[1] <= high
    if lost + won < samples:
        more = bound_paired_drop(lost + 1, won, samples)
        assert more[0] > low
        assert more[1] > high


@given(counted())
def test_losses_alone_are_a_proportion(count: Hits) -> None:
    lost, samples = count
    assert bound_paired_drop(lost, 0, samples)[1] == pytest.approx(bound_proportion(lost, samples)[1], abs=1e-9)


@pytest.mark.parametrize("change", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_a_drop_needs_samples_and_no_more_changes(change: Changes) -> None:
    with pytest.raises(ValueError, match=f"{change[0]} lost and {change[1]} won of {change[2]} samples"):
        bound_paired_drop(*change)


# The median


def test_the_median_lies_between_two_of_the_values() -> None:
    # fewer than 1 of 5 below it: 1/32 = 0.031; fewer than 2: 6/32
    assert bound_median(np.array([5.0, 1, 4, 2, 3])) == (1, 5)
    # fewer than 6 of 20: (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 = 21700 / 1048576 = 0.021; than 7: 60460 / 1048576 = 0.058
    assert bound_median(np.arange(20.0, 0, -1)) == (6, 15)


@pytest.mark.parametrize("n", [5, 8, 11, 50, 200, 2001])
def test_the_median_as_scipy_has_it(n: int) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    assert bound_median(values) == tuple(stats.quantile_test(values, p=0.5).confidence_interval(2 * LEVEL - 1))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_values_say_how_many_are_needed(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} values are too few to bound a median at 95%; give at least 5"):
        bound_median(np.arange(float(n)))


def test_the_median_of_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not all values are finite"):
        bound_median(np.array([1.0, 2, 3, 4, math.nan, 6]))


# The bootstrap

HUNDRED = np.arange(101.0)
"""Resamples 0 to 100: the share s of them ends at 100 s."""


def test_without_bias_and_acceleration_the_bounds_are_percentiles() -> None:
    assert bound_bca(50, HUNDRED, np.array([1.0, 0, -1])) == pytest.approx((5, 95))
    assert bound_bca(50, HUNDRED, np.zeros(3)) == pytest.approx((5, 95))


def test_acceleration_moves_both_bounds_towards_the_longer_tail() -> None:
    # influence 2, -1, -1: a = (8 - 1 - 1) / (6 (4 + 1 + 1)^1.5) = 1 / 14.6969 = 0.0680414
    # Phi(-Z / (1 + a Z)) = Phi(-1.644854 / 1.111918) = 0.06953; Phi(Z / (1 - a Z)) = Phi(1.644854 / 0.888082) = 0.96800
    assert bound_bca(50, HUNDRED, np.array([-2.0, 1, 1])) == pytest.approx((6.953, 96.800), abs=2e-3)


def test_bias_moves_both_bounds_away_from_where_the_resamples_went() -> None:
    # 30 of 101 lie below 30 and one is equal: (30 + 31) / 202 = 0.301980, Phi^-1 = -0.518735; Phi(2 -0.518735 -+ 1.644854) is
    # Phi(-2.682324) = 0.003656 and Phi(0.607384) = 0.728203
    assert bound_bca(30, HUNDRED, np.zeros(3)) == pytest.approx((0.3656, 72.8203), abs=2e-3)


def test_bounds_never_exclude_the_estimate() -> None:
    low, high = bound_bca(1000, HUNDRED, np.array([1.0, 0, -1]))
    assert low <= 1000 <= high
    low, high = bound_bca(-1000, HUNDRED, np.array([1.0, 0, -1]))
    assert low <= -1000 <= high


def mean(sums: Numbers) -> Numbers:
    return sums[..., 1] / sums[..., 0]


def counting(values: Numbers) -> Numbers:
    return np.stack([np.ones(len(values)), values], 1)


SCIPY = {"normal": (np.random.default_rng(1).normal(size=60)), "skewed": np.random.default_rng(2).exponential(size=150) ** 2}


@pytest.mark.parametrize("name", SCIPY)
def test_the_mean_as_scipy_has_it(name: str) -> None:
    values = SCIPY[name]
    other = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=50_000, rng=0).confidence_interval
    error = float(values.std()) / math.sqrt(len(values))
    assert bootstrap_sums(counting(values), mean) == pytest.approx(tuple(other), abs=0.12 * error)  # of 2,000 resamples


def test_rows_and_sums_draw_the_same_resamples() -> None:
    values = np.random.default_rng(3).exponential(size=150)
    by_rows = bootstrap_rows(150, lambda rows: float(values[rows].mean()))
    assert by_rows == pytest.approx(bootstrap_sums(counting(values), mean), abs=1e-12)


def test_leaving_out_groups_tells_nearly_the_same() -> None:
    values = np.sort(np.random.default_rng(4).exponential(size=3000))
    by_rows = bootstrap_rows(3000, lambda rows: float(values[rows].mean()))
    assert by_rows == pytest.approx(bootstrap_sums(counting(values), mean), abs=2e-3 * float(values.std()))


def moments(p: Numbers, q: Numbers) -> Numbers:
    """[N, k, k]: n, p, q, pp, qq, pq."""
    return np.stack([np.full(len(p), p[0].size), p.sum(1), q.sum(1), (p * p).sum(1), (q * q).sum(1), (p * q).sum(1)], 1)


def pearson(sums: Numbers) -> Numbers:
    n, p, q, pp, qq, pq = np.moveaxis(sums, -1, 0)
    r: Numbers = (n * pq - p * q) / np.sqrt((n * pp - p * p) * (n * qq - q * q))
    return r


def correlation(p: Numbers, q: Numbers) -> float:
    return float(np.corrcoef(p.ravel(), q.ravel())[0, 1])


def test_a_correlation_is_resampled_by_sample_and_not_by_entry() -> None:
    # samples of 10 entries that share one error: 50 independent pieces of evidence, not 500
    rng = np.random.default_rng(5)
    p = rng.normal(size=(50, 1)) + np.zeros((50, 10))
    q = p + rng.normal(size=(50, 1))
    low, high = bootstrap_sums(moments(p, q), pearson)
    assert (low, high) == pytest.approx(bootstrap_rows(50, lambda rows: correlation(p[rows], q[rows])), abs=1e-9)
    assert low < correlation(p, q) < high
    entries = bootstrap_sums(moments(p.reshape(-1, 1), q.reshape(-1, 1)), pearson)
    assert high - low > 2 * (entries[1] - entries[0])


@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_bounds_move_and_stretch_with_the_values(shift: float, scale: float) -> None:
    values = np.random.default_rng(6).exponential(size=40)
    low, high = bootstrap_sums(counting(values), mean)
    assert bootstrap_sums(counting(shift + scale * values), mean) == pytest.approx((shift + scale * low, shift + scale * high))
    assert bootstrap_sums(counting(-values), mean)[0] == pytest.approx(-high, rel=0.02)


def test_bounds_close_with_the_samples() -> None:
    rng = np.random.default_rng(7)
    widths = [np.diff(bootstrap_sums(counting(rng.normal(size=n)), mean))[0] for n in (100, 400, 1600)]
    for wide, narrow in pairwise(widths):
        assert narrow == pytest.approx(wide / 2, rel=0.2)


def test_where_no_sample_differs_both_bounds_are_the_estimate() -> None:
    assert bootstrap_sums(counting(np.full(30, 0.25)), mean) == (0.25, 0.25)
    assert bootstrap_rows(30, lambda rows: 1.0) == (1, 1)


def f1(counts: Numbers) -> float:
    """Of hits, false alarms and misses, [N, 3]."""
    hits, false, missed = counts.sum(0)
    return float(2 * hits / (2 * hits + false + missed))


HIT, MISSED, NEITHER = [1.0, 0, 0], [0.0, 0, 1], [0.0, 0, 0]


def test_a_drop_is_bounded_as_if_one_more_sample_were_lost_and_one_won() -> None:
    expected = np.array([HIT] * 30 + [MISSED] * 5 + [NEITHER] * 65)
    got = expected.copy()
    got[:2] = MISSED
    before, after = statistics.add_changes(expected, got, f1)
    assert before[-2:].tolist() == [HIT, MISSED]
    assert after[-2:].tolist() == [MISSED, HIT]
    assert (before[:-2] == expected).all()
    assert (after[:-2] == got).all()
    low, high = statistics.bootstrap_drop(expected, got, f1)
    assert low < 0 < f1(expected) - f1(got) < high  # one sample won would have been no surprise
    as_seen = bootstrap_rows(100, lambda rows: f1(expected[rows]) - f1(got[rows]))
    assert as_seen[0] >= 0


def score(rows: Numbers) -> float:
    return float(rows.mean())


def test_that_no_score_changed_does_not_show_that_none_does() -> None:
    # resampled, the two added changes are Poisson(1) counts, whose difference is at most 2 in 95 % of cases; paired has 2.7
    scores = np.repeat([[1.0], [0.0]], [150, 50], axis=0)
    low, high = statistics.bootstrap_drop(scores, scores, score)
    assert (low, high) == pytest.approx((-2 / 202, 2 / 202))
    assert high == pytest.approx(bound_paired_drop(0, 0, 200)[1], rel=0.3)


def test_a_drop_of_many_changes_is_that_of_paired_proportions() -> None:
    rng = np.random.default_rng(8)
    expected = np.array(rng.random((1000, 1)) < 0.9, float)
    got = np.where(rng.random((1000, 1)) < 0.1, 1 - expected, expected)
    lost, won = int((expected > got).sum()), int((got > expected).sum())
    assert statistics.bootstrap_drop(expected, got, score) == pytest.approx(bound_paired_drop(lost, won, 1000), abs=1.5e-3)


def test_the_best_and_the_worst_of_many_different_scores_are_found() -> None:
    scores = np.random.default_rng(9).random((500, 1))
    before, after = statistics.add_changes(scores, scores, score)
    assert before[-2:].tolist() == [[scores.max()], [scores.min()]]
    assert after[-2:].tolist() == [[scores.min()], [scores.max()]]


def test_a_score_that_is_undefined_on_some_resamples_is_refused() -> None:
    positive = np.arange(20) == 0  # left out of about (19/20)^20 = 36 % of resamples, and of one set of the jackknife

    def recall(rows: npt.NDArray[np.int64]) -> float:
        return float(positive[rows].sum() / positive[rows].sum()) if positive[rows].any() else math.nan

    with pytest.raises(ValueError, match=r"not a finite number for [67]\d\d of 2021 sets .* define it there"):
        bootstrap_rows(20, recall)


SMALL: dict[str, Callable[[int], Bounds]] = {
    "sums": lambda n: bootstrap_sums(counting(np.ones(n)), mean),
    "rows": lambda n: bootstrap_rows(n, lambda rows: 1.0),
}


@pytest.mark.parametrize("way", SMALL)
@pytest.mark.parametrize("n", [0, 1])
def test_one_sample_cannot_be_resampled(way: str, n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} samples cannot be resampled; give at least 2"):
        SMALL[way](n)


@pytest.mark.parametrize("part", [10, 1000, 12_345])
def test_resamples_are_complete_however_many_are_made_at_a_time(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLE_CHUNK_BYTES", part)
    statistics.count_draws.cache_clear()
    counts = np.concatenate(list(statistics.draw_resamples(30)))
    statistics.count_draws.cache_clear()
    assert counts.shape == (statistics.RESAMPLES, 30)
    assert (counts.sum(1) == 30).all()
    assert len(np.unique(counts, axis=0)) > 1990  # no part repeats another
    assert counts.mean(0) == pytest.approx(np.ones(30), abs=5 * math.sqrt(1 / statistics.RESAMPLES))


# How many would decide


def test_half_the_distance_needs_four_times_the_samples() -> None:
    # the bound is 0.02 away from the estimate and the limit 0.01: (0.02 / 0.01)^2 200 = 800
    assert estimate_sample_size(0.01, 0.03, 0.02, 200) == pytest.approx(800, abs=1)
    assert estimate_sample_size(0.96, 0.94, 0.95, 200) == pytest.approx(800, abs=1)


def test_at_the_limit_no_number_decides() -> None:
    assert estimate_sample_size(0.02, 0.03, 0.02, 200) is None
    assert estimate_sample_size(0.02, 0.03, math.nextafter(0.02, 1), 200) is None  # by more than 10^9 samples


@pytest.mark.parametrize(("change", "limit"), [((5, 3, 200), 0.02), ((20, 10, 1000), 0.015), ((20, 20, 1000), 0.005)])
def test_that_many_samples_do_decide(change: Changes, limit: float) -> None:
    lost, won, samples = change
    _, high = bound_paired_drop(*change)
    needed = estimate_sample_size((lost - won) / samples, high, limit, samples)
    assert needed is not None
    times = round(needed / samples)
    assert times > 1
    # "about": of few changes a bound is not quite in proportion to 1 / sqrt(samples)
    assert bound_paired_drop(times * lost, times * won, times * samples)[1] == pytest.approx(limit, rel=0.1)

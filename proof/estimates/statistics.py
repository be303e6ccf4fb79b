"""Statistics: what a number measured on some samples tells about the number it estimates.

Every function gives a lower and an upper bound, each one-sided at 95 %: in about 5 of 100
validations the truth lies beyond the bound that decides a verdict. Comparisons are paired: two
models answer the same samples, which are drawn independently. Counts of samples (0/1 scores,
agreement) have score bounds. The bootstrap is for everything else, and its bounds are too near if a
few of few samples weigh most. ``benchmarks/gates.py`` measures how often each is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from attar.proof.estimates.bounds import LEVEL, ConfidenceBounds
from attar.proof.estimates.sums import Numbers, Sums

Indices = npt.NDArray[np.int64]
Name = TypeVar("Name", bound=Hashable)

Z = NormalDist().inv_cdf(LEVEL)
RESOLUTION = 1e-12  # of a score bound
RESAMPLES = 2000
RESAMPLE_CHUNK_BYTES = 2**21  # counts that are made at a time: 2 MB, 16 MB as float64
JACKKNIFE_GROUPS = 200  # of samples that the jackknife of a slow statistic leaves out at a time
MAX_UNDEFINED_SHARE = (
    0.05  # of the resamples may have no value, such as an AUC of one class; they are left out
)


def bound_proportion(hits: float, samples: float) -> ConfidenceBounds:
    """Return bounds of the probability of a hit: Wilson's (1927), corrected for skewness.

    The correction is applied if it widens them. Neither number need be whole, see
    ``ShareSums.effective_samples``.
    """
    if not 0 <= hits <= samples or samples == 0:
        raise ValueError(
            f"{hits} hits of {samples} samples; give at least one sample and no more hits than "
            "samples"
        )
    low = 1 - find_score_bound(samples - hits, samples, lambda p: p)
    return ConfidenceBounds(low, find_score_bound(hits, samples, lambda p: p))


def bound_paired_drop(lost: int, won: int, samples: int) -> ConfidenceBounds:
    """Return bounds of the drop of a 0/1 score: Tango's (1998), corrected for skewness.

    ``lost``: samples that were right and are wrong now; ``won``: wrong before and right now. The
    drop is (lost - won) / samples. The correction is applied if it widens the bounds.
    """
    if min(lost, won) < 0 or lost + won > samples or samples == 0:
        raise ValueError(
            f"{lost} lost and {won} won of {samples} samples; give at least one sample and no more "
            "of both than samples"
        )
    return ConfidenceBounds(
        low=-find_score_bound(
            won - lost, samples, lambda drop: estimate_change_probability(won, lost, samples, drop)
        ),
        high=find_score_bound(
            lost - won, samples, lambda drop: estimate_change_probability(lost, won, samples, drop)
        ),
    )


def estimate_change_probability(lost: int, won: int, samples: int, drop: float) -> float:
    """Return the most likely probability that a sample changes sides if the true drop is ``drop``.

    Tango (1998): the probability of a win is the larger root of 2 n q^2 + b q + c, where the
    likelihood of the counts is greatest.
    """
    b = (2 * samples - lost + won) * drop - lost - won
    c = -won * drop * (1 - drop)
    gained = (math.sqrt(b * b - 8 * samples * c) - b) / (4 * samples)
    return 2 * max(gained, -drop, 0.0) + drop


def find_score_bound(total: float, samples: float, square: Callable[[float], float]) -> float:
    """Return the largest mean of D in {-1, 0, 1} that a one-sided score test does not reject.

    The test is on the sum of D over the samples. ``square``: the expectation of D^2 if that of D is
    the given mean. As D^3 = D, the third central moment is m - 3 m E[D^2] + 2 m^3. Z deviations are
    corrected for skewness to the first order (Cornish and Fisher 1938; Laud 2017). A correction
    that would bring the bound nearer is left out: with few changes the counts are so coarse that
    the test at the nearer bound passes twice as often as it should.
    """
    estimate = total / samples
    low, high = estimate, 1.0
    while high - low > RESOLUTION:
        mean = (low + high) / 2
        variance = square(mean) - mean**2
        third = mean - 3 * mean * square(mean) + 2 * mean**3
        reach = Z * math.sqrt(variance / samples) - min(
            0, (Z**2 - 1) * third / (6 * samples * variance)
        )
        low, high = (mean, high) if mean - estimate <= reach else (low, mean)
    return high


def bound_median(values: Numbers) -> ConfidenceBounds:
    """Return bounds of the median of independent ``values`` [n]: two of the values.

    They hold for any distribution. The k-th smallest value exceeds the median if fewer than k
    values lie below it: binomial(n, 1/2) (Conover 1999, section 3.2).
    """
    n, ordered = len(values), np.sort(values)
    if not np.isfinite(ordered).all():
        raise ValueError("not all values are finite; their median has no bounds")
    allowed = Fraction(1 - LEVEL) * 2**n
    k, term, tail = 0, 1, 1  # subsets of k values; of at most k values
    while tail <= allowed:
        k += 1
        term = term * (n - k + 1) // k
        tail += term
    if k == 0:
        raise ValueError(
            f"{n} values are too few to bound a median at {LEVEL:.0%}; give at least "
            f"{count_fewest_values()}"
        )
    return ConfidenceBounds(float(ordered[k - 1]), float(ordered[n - k]))


def count_fewest_values() -> int:
    """Return how many values make the smallest of them a lower bound of the median."""
    return math.ceil(-math.log2(1 - LEVEL))


def bootstrap_sums(columns: Numbers, statistic: Callable[[Numbers], Numbers]) -> ConfidenceBounds:
    """Return the bounds of one statistic; see ``bootstrap_bounds``."""
    return bootstrap_bounds({"": Sums(columns, statistic)})[""]


def bootstrap_bounds(wanted: Mapping[Name, Sums]) -> dict[Name, ConfidenceBounds]:
    """Return bounds by resampling rows (BCa, see ``bound_bca``): samples, or groups of samples.

    All statistics of the same number of rows are computed at once and on the same resamples. Raises
    ValueError for fewer than 2 rows, and if too many statistics of resamples are not finite.
    """
    alike: dict[int, dict[Name, Sums]] = {}
    for name, each in wanted.items():
        alike.setdefault(len(each.columns), {})[name] = each
    return {
        name: bounds for some in alike.values() for name, bounds in bootstrap_together(some).items()
    }


def bootstrap_together(wanted: Mapping[Name, Sums]) -> dict[Name, ConfidenceBounds]:
    columns = np.concatenate(
        [each.columns for each in wanted.values()], 1, dtype=np.float64
    )  # (N, all k)
    total, ends = (
        columns.sum(0),
        np.cumsum([each.columns.shape[1] for each in wanted.values()])[:-1],
    )
    resampled = np.concatenate(
        [part.astype(np.float64) @ columns for part in draw_resamples(len(columns))]
    )
    split = (np.split(sums, ends, -1) for sums in (total, resampled, total - columns))
    return {
        name: bound_bca(float(each.statistic(whole)), each.statistic(drawn), each.statistic(left))
        for (name, each), whole, drawn, left in zip(wanted.items(), *split, strict=True)
    }


def bootstrap_rows(samples: int, statistic: Callable[[Indices], float]) -> ConfidenceBounds:
    """Return bounds of any statistic of rows, on the same resamples as ``bootstrap_sums``.

    ``statistic`` gets the indices of the rows, some of them repeatedly. Above 200 samples the
    jackknife leaves out one of 200 random groups at a time, which estimates the same acceleration.
    """
    rows = np.arange(samples)
    resampled = [
        statistic(np.repeat(rows, counts)) for part in draw_resamples(samples) for counts in part
    ]
    groups = np.array_split(
        np.random.default_rng(0).permutation(samples), min(samples, JACKKNIFE_GROUPS)
    )
    left = [statistic(np.delete(rows, group)) for group in groups]
    return bound_bca(statistic(rows), np.array(resampled), np.array(left))


def bootstrap_drop(
    expected: Numbers, got: Numbers, score: Callable[[Numbers], float]
) -> ConfidenceBounds:
    """Return bounds of score(expected) - score(got), per-sample statistics [N, k] of the same
    samples.

    A bootstrap knows only the changes that it saw: with few or none its bounds are too near. So one
    sample more is lost and one more is won, as Agresti and Min (2005) add to the counts of each
    change. For 0/1 scores use ``bound_paired_drop``, which needs no such help.
    """
    before, after = add_changes(expected, got, score)
    low, high = bootstrap_rows(len(before), lambda rows: score(before[rows]) - score(after[rows]))
    drop = score(expected) - score(got)
    return ConfidenceBounds(min(low, drop), max(high, drop))


def add_changes(
    expected: Numbers, got: Numbers, score: Callable[[Numbers], float]
) -> tuple[Numbers, Numbers]:
    """Return both [N + 2, k]: one sample more was lost, and one was won.

    They go from the best statistics of any sample to the worst, and back. The best raise the score
    most if they are added once more. Of more than 200 different statistics 200 are tried.
    """
    seen = np.unique(np.concatenate([expected, got]), axis=0)
    seen = seen[np.unique(np.linspace(0, len(seen) - 1, JACKKNIFE_GROUPS).round().astype(int))]
    scores = [score(np.vstack([expected, one])) for one in seen]
    best, worst = seen[np.argmax(scores)], seen[np.argmin(scores)]
    return np.vstack([expected, best, worst]), np.vstack([got, worst, best])


def draw_resamples(samples: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield how often each sample is drawn, [resamples, samples] in parts, always the same."""
    if samples < 2:
        raise ValueError(f"{samples} samples cannot be resampled; give at least 2")
    together = max(1, RESAMPLE_CHUNK_BYTES // samples)
    for start in range(0, RESAMPLES, together):
        yield count_draws(samples, start, min(together, RESAMPLES - start))


@lru_cache(maxsize=16)  # 32 MB up to 2 million samples: all comparisons of a ledger share draws
def count_draws(samples: int, start: int, count: int) -> npt.NDArray[np.uint8]:
    """Return counts [count, samples]. A count near 255 has a probability below 10^-500."""
    chosen = np.random.default_rng((samples, start)).integers(samples, size=(count, samples))
    chosen += np.arange(count)[:, None] * samples
    made: npt.NDArray[np.uint8] = (
        np.bincount(chosen.ravel(), minlength=count * samples)
        .astype(np.uint8)
        .reshape(count, samples)
    )
    made.flags.writeable = False
    return made


def bound_bca(estimate: float, resampled: Numbers, left: Numbers) -> ConfidenceBounds:
    """Return bias-corrected and accelerated bounds.

    Efron 1987; Efron and Tibshirani 1993, eqs. 14.10, 14.14 and 14.15. ``resampled``: the statistic
    of each resample; ``left``: with each sample left out. If all resamples give the estimate, so do
    both bounds: a bootstrap sees no difference that no sample shows. Bounds never exclude the
    estimate.
    """
    values = np.concatenate([[estimate], resampled, left])
    undefined = int((~np.isfinite(values)).sum())
    if not math.isfinite(estimate) or undefined > MAX_UNDEFINED_SHARE * len(values):
        raise ValueError(
            f"the statistic is not a finite number for {undefined} of {len(values)} sets of these "
            "samples (such as F1 of samples without a positive one); define it there, say as 0, or "
            "give more samples"
        )
    resampled, left = resampled[np.isfinite(resampled)], left[np.isfinite(left)]
    below = ((resampled < estimate).mean() + (resampled <= estimate).mean()) / 2
    bias = NormalDist().inv_cdf(
        float(np.clip(below, 0.5 / len(resampled), 1 - 0.5 / len(resampled)))
    )
    influence = left.mean() - left
    spread = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * spread) if spread > 0 else 0.0
    shares = [locate_bca_bound(bias, acceleration, z) for z in (-Z, Z)]
    low, high = np.quantile(resampled, shares)
    return ConfidenceBounds(min(float(low), estimate), max(float(high), estimate))


def locate_bca_bound(bias: float, acceleration: float, z: float) -> float:
    """Return the share of resamples below the bound.

    The divisor is positive: acceleration is at most 1/6 and ``bias + z`` is below 6.
    """
    return NormalDist().cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))

"""Gate: a limit on one comparison, and the verdict that follows from both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from attar.proof.estimates.bounds import ConfidenceBounds, estimate_sample_size
from attar.proof.hop import PREVIOUS_HOP, HopName

GateVerdict = Literal["passed", "failed", "undecided", "not run here"]
SEVERITY: Sequence[GateVerdict] = ("failed", "undecided", "not run here", "passed")
Metric = Literal[
    "sound",
    "sizes",
    "leak",
    "endless",
    "loop",
    "teacher_score",
    "score",
    "score_drop",
    "correlation",
    "cosine",
    "agreement",
    "identical",
    "kdl",
    "largest_difference",
    "speedup",
    "correlation_per_sample",
    "correlation_probabilities",
]
Baseline = Literal["teacher", "previous", "reference", "production", "absolute"]
"""What a metric is compared with; ``absolute`` is nothing."""

UPPER_LIMIT_METRICS: frozenset[Metric] = frozenset(
    {"score_drop", "kdl", "largest_difference", "sound", "sizes", "leak", "endless", "loop"}
)
"""The metrics that must not exceed their limit. The others must reach it."""
UNLIMITED_METRICS: frozenset[Metric] = frozenset(
    {"correlation_per_sample", "correlation_probabilities", "identical"}
)
"""The metrics that are recorded for readers. No gate is about them."""
EXACT_METRICS: frozenset[Metric] = frozenset(
    {"sound", "sizes", "leak", "endless", "loop", "largest_difference"}
)
"""Counts and a maximum over these samples. The other metrics are estimates and have bounds."""
ROUNDING = 1e-12
"""Distance from the limit that counts as kept: in floating point, 0.9 - 0.875 exceeds 0.025."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a hop, compared with a baseline on the same samples.

    Raises ValueError if the hop has no such baseline, or if the bounds do not support the value.
    """

    metric: Metric
    hop: HopName
    baseline: Baseline
    value: float | None
    """None if the hop was not run on this machine."""
    bounds: ConfidenceBounds | None = None
    """One-sided 95 % bounds; None if the value is exact (a count or a maximum)."""
    sample_size: int | None = None
    """Number of test samples behind the bounds; of timing rounds for a speedup."""

    def __post_init__(self) -> None:
        if self.baseline == "previous" and self.hop not in PREVIOUS_HOP:
            raise ValueError(f"the {self.hop} was not made from another hop")
        if self.metric in EXACT_METRICS:
            if (self.bounds, self.sample_size) != (None, None):
                raise ValueError(f"{self.metric} of the {self.hop} is exact and can have no bounds")
        elif self.value is not None:
            self._check_bounds(self.value)

    def _check_bounds(self, value: float) -> None:
        if self.bounds is None or self.sample_size is None:
            raise ValueError(
                f"{self.metric} of the {self.hop} is an estimate without bounds, "
                "which proves nothing"
            )
        if not self.bounds.low <= value <= self.bounds.high:
            raise ValueError(f"{self.metric} of the {self.hop} is not inside its own bounds")

    @property
    def baseline_name(self) -> str:
        """The hop that it is compared with, or ``absolute``."""
        return PREVIOUS_HOP[self.hop] if self.baseline == "previous" else self.baseline


@dataclass(frozen=True)
class Gate:
    """A limit on one comparison. The verdict is computed, never set.

    Raises ValueError for a metric that has no limit.
    """

    comparison: Comparison
    limit: float
    required: bool
    """Whether the target's verdict depends on it. If not, it only locates a failure."""
    note: str | None = None
    """The evidence in words, where a number says little."""

    def __post_init__(self) -> None:
        if self.comparison.metric in UNLIMITED_METRICS:
            raise ValueError(f"no gate is about the {self.comparison.metric}")

    @property
    def verdict(self) -> GateVerdict:
        """``passed`` if both bounds keep the limit, ``failed`` if neither does."""
        margins = self._margins
        if not margins:
            return "not run here"
        if min(margins) >= -ROUNDING:
            return "passed"
        return "failed" if max(margins) < -ROUNDING else "undecided"

    @property
    def margin(self) -> float | None:
        """The distance of the measured value from the limit; negative if the value violates it."""
        value = self.comparison.value
        return None if value is None else self.margin_of(value)

    @property
    def exceeds_limit(self) -> bool:
        """Whether the measured value violates the limit, even if its bounds leave that open."""
        return self.margin is not None and self.margin < -ROUNDING

    def margin_of(self, number: float) -> float:
        """Return the distance from the limit, negative if the number violates it."""
        has_upper_limit = self.comparison.metric in UPPER_LIMIT_METRICS
        return self.limit - number if has_upper_limit else number - self.limit

    @property
    def deciding_sample_size(self) -> int | None:
        """About how many samples would decide if the measured value were the true one.

        None if it is decided, or if the value lies at the limit, where no number decides.
        """
        value, bounds = self.comparison.value, self.comparison.bounds
        samples = self.comparison.sample_size
        if self.verdict != "undecided" or value is None or bounds is None or samples is None:
            return None
        choose_bound = min if self.margin_of(value) > 0 else max
        bound = choose_bound(bounds, key=self.margin_of)
        return estimate_sample_size(value, bound, self.limit, samples)

    @property
    def _margins(self) -> list[float]:
        value, bounds = self.comparison.value, self.comparison.bounds
        return [] if value is None else [self.margin_of(number) for number in bounds or (value,)]


def combine_verdicts(verdicts: Iterable[GateVerdict]) -> GateVerdict:
    """Return the most severe of them; ``passed`` if there are none."""
    return min(verdicts, key=SEVERITY.index, default="passed")

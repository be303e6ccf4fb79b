"""Outcome: one gate, its evidence, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attar.stages.proof.ledger import PREVIOUS
from attar.stages.proof.statistics import Bounds, enough

Decision = Literal["passed", "failed", "undecided", "not run here"]
Name = Literal[
    "sound",
    "sizes",
    "leak",
    "teacher_score",
    "score",
    "score_drop",
    "correlation",
    "cosine",
    "agreement",
    "kdl",
    "largest_difference",
    "speedup",
]
Against = Literal["teacher", "previous", "reference", "production", "absolute"]
AT_MOST = {"score_drop", "kdl", "largest_difference", "sound", "sizes", "leak"}
EXACT = {"sound", "sizes", "leak", "largest_difference"}
"""Counts and a maximum over these very samples; the others are estimates and have bounds."""
PROMISES = {"sound": "no NaN, no infinity, not constant", "sizes": "a sound answer at every promised size"}
NAMES = {
    "sound": "samples without a usable answer",
    "sizes": "sizes without a sound answer",
    "leak": "share of test samples that are nearly training samples",
}
ROUNDING = 1e-12  # 0.9 - 0.875 is more than 0.025 in floating point; at the limit is inside


@dataclass(frozen=True)
class Outcome:
    gate: Name
    hop: str
    against: Against
    limit: float
    measured: float | None
    """None: not run here."""
    decides: bool
    """Whether the verdict depends on it; otherwise it only shows where a promise was broken first."""
    bounds: Bounds | None = None
    """One-sided at 95 % each; None: the number is exact, a count or a maximum."""
    samples: int | None = None
    """What the bounds rest on: samples of the test split, or rounds of timing."""
    note: str | None = None
    """The evidence in words, where a number says little."""

    @property
    def margin(self) -> float | None:
        """How far the number that was measured is inside the limit; negative is outside."""
        return None if self.measured is None else self.inside(self.measured)

    @property
    def verdict(self) -> Decision:
        """``passed`` when the worse bound is inside the promise, ``failed`` when the better one is outside."""
        if self.measured is None:
            return "not run here"
        if self.inside(self.worse) >= -ROUNDING:
            return "passed"
        return "failed" if self.inside(self.better) < -ROUNDING else "undecided"

    def inside(self, number: float) -> float:
        return self.limit - number if self.gate in AT_MOST else number - self.limit

    @property
    def worse(self) -> float:
        return min(self.interval, key=self.inside)

    @property
    def better(self) -> float:
        return max(self.interval, key=self.inside)

    @property
    def interval(self) -> Sequence[float]:
        if self.bounds is not None:
            return self.bounds
        return () if self.measured is None else (self.measured,)

    @property
    def would_decide(self) -> str | None:
        """How much more evidence would decide, were the measured number the true one; None where it is decided."""
        if self.verdict != "undecided" or self.measured is None or self.samples is None:
            return None
        bound = self.worse if self.inside(self.measured) > 0 else self.better
        number = enough(self.measured, bound, self.limit, self.samples)
        what = "rounds" if self.gate == "speedup" else "samples"
        return "at the limit: no number decides" if number is None else f"about {number:,} {what}"

    @property
    def more(self) -> str:
        """``would_decide`` as the end of a sentence."""
        told = self.would_decide or ""
        return f"{told} would decide" if told.startswith("about") else told

    @property
    def promise(self) -> str:
        return PROMISES.get(self.gate) or f"at {'most' if self.gate in AT_MOST else 'least'} {self.limit:g}"

    @property
    def found(self) -> str:
        """``0.0111 (0.0081 to 0.0142)``"""
        if self.measured is None:
            return "not run here"
        return f"{self.measured:.4g} ({self.between})" if self.between else f"{self.measured:.4g}"

    @property
    def between(self) -> str:
        return f"{self.bounds[0]:.4g} to {self.bounds[1]:.4g}" if self.bounds else ""

    @property
    def kept(self) -> str:
        """``score drop 0.0111 (0.0081 to 0.0142; at most 0.025)``"""
        inside = f"{self.between}; {self.promise}" if self.between else self.promise
        other = " against production" if self.against == "production" else ""
        return f"{self.gate.replace('_', ' ')}{other} {self.measured:.4g} ({inside})"

    @property
    def sentence(self) -> str:
        other = PREVIOUS[self.hop] if self.against == "previous" else self.against
        compared = f" against {other}" if self.against in ("previous", "production") else ""
        name = NAMES.get(self.gate) or self.gate.replace("_", " ")
        told = f" ({self.note})" if self.note else ""
        return f"{self.hop}: {name}{compared} {self.found}{told}, promised {self.promise}"

    def facts(self) -> dict[str, Any]:
        shown = ("gate", "hop", "against", "promise", "limit", "measured", "samples", "margin", "verdict", "decides", "note")
        bounds = None if self.bounds is None else list(self.bounds)
        return {**{name: getattr(self, name) for name in shown}, "bounds": bounds, "would_decide": self.would_decide}

"""Results: what a search found of each variant, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import GateVerdict
from attar.search.variant import Variant

Status = Literal[
    "kept", "broke", "stopped", "failed", "too slow", "cannot win", "refused", "not reached"
]
"""``kept`` all promises on validation; ``broke`` one; ``stopped`` early in its training, which may
also have ``failed``; not trained: ``too slow`` for the promised speedup, ``cannot win`` against one
that keeps all promises, ``refused`` by its runtime or network, ``not reached`` within the number of
trials."""


@dataclass(frozen=True)
class VariantResult:
    name: str
    title: str
    settings: Mapping[str, Any]
    status: Status
    reason: str
    engine: str = ""
    """The precision and runtime of its best candidate."""
    p50: float | None = None
    """The median time of a call in microseconds, at the batch size that decides, of the untrained
    network."""
    speedup: float | None = None
    bounds: ConfidenceBounds | None = None
    """Of the speedup."""
    size_bytes: int | None = None
    epochs: int = 0
    """How many were trained, of which an earlier run may have done some."""
    score: float | None = None
    correlation: float | None = None
    agreement: float | None = None
    """The three are of the engine, on validation."""
    shortfall: float = 0.0
    """How far the worst promise is broken, as a share of its limit; 0 if all are kept."""
    broken: tuple[str, ...] = ()
    """The promises that it breaks, in words."""

    @property
    def shortcoming(self) -> str:
        """What is wrong with a variant that keeps not all promises."""
        return "; ".join(self.broken) or self.reason


@dataclass(frozen=True)
class WinnerTest:
    """The one look of the winner at the test split."""

    verdict: GateVerdict | Literal["no verdict"]
    reasons: tuple[str, ...] = ()
    """The promises that it broke or left open, and what ended its run."""


@dataclass(frozen=True)
class SearchResult:
    """All variants in the order of their speed, and how they were chosen."""

    recipe: str
    objective: str
    variants: tuple[VariantResult, ...]
    winner: str | None
    """The name of the best variant that keeps all promises; None if none does."""
    score_name: str
    promises: Mapping[str, float]
    """The limits of the target, by measure."""
    teacher_score: float | None
    reference_p50: float | None
    """The teacher's own graph at the batch size that decides, in microseconds."""
    epochs_each: int
    """Of a whole training, unless the variant sets its own."""
    notes: tuple[str, ...] = field(default=())
    """What the reader should know, in sentences: how sure the speeds are, what the search saved,
    and what the next promise would cost."""
    test: WinnerTest | None = None
    """What the test split said of the winner; None before it was asked."""

    def get_winner(self) -> VariantResult | None:
        return next((each for each in self.variants if each.name == self.winner), None)

    def list_closest(self, most: int = 3) -> list[VariantResult]:
        """Return the variants that broke a promise by the least. Where none was trained, they are
        the fastest of those that are too slow."""
        broken = [each for each in self.variants if each.status == "broke"]
        slow = [each for each in self.variants if each.status == "too slow"]
        return (sorted(broken, key=lambda each: each.shortfall) or slow)[:most]

    @property
    def trained_epochs(self) -> int:
        return sum(count_epochs(self.variants).values())


def count_epochs(variants: Sequence[VariantResult]) -> dict[str, int]:
    """Return how many epochs each student was trained. Variants that differ in the target alone
    share one."""
    epochs: dict[str, int] = {}
    for each in variants:
        student = Variant(0, each.settings).student
        epochs[student] = max(each.epochs, epochs.get(student, 0))
    return epochs

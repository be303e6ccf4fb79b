"""The candidates of a target: what was measured of each on validation, and which one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.gate import GateVerdict
from attar.proof.ledger.ledger import Hop, Ledger, TimingConditions

CandidateStatus = Literal["measured", "refused", "not run here"]


@dataclass(frozen=True)
class CandidateMeasurement:
    """What was measured of one candidate."""

    name: str
    title: str
    settings: Mapping[str, Any]
    """What the recipe sets of it."""
    status: CandidateStatus
    why: str | None
    """Why it was not measured."""
    hop: Hop | None = None
    """The candidate in the place of the target's model; None if it was not measured."""
    threads: int | None = None

    def get_p50(self, batch: int) -> float:
        """Return the median latency at a batch size; infinity if it was not measured."""
        return float("inf") if self.hop is None else self.hop.latencies[batch].p50


@dataclass(frozen=True)
class CandidateLedger:
    """All candidates of a target, measured on the same samples and in the same rounds."""

    ledger: Ledger
    """With the teacher and the fp32 graph as its hops."""
    candidates: Mapping[str, CandidateMeasurement]
    """By name, in the recipe's order."""


@dataclass(frozen=True)
class LatencyRatio:
    """The latency of a candidate, divided by that of the fastest: the median over rounds."""

    times: float
    bounds: ConfidenceBounds


@dataclass(frozen=True)
class CandidateResult:
    """One candidate beside the others. What was not measured is None."""

    name: Annotated[str, Field(alias="candidate")]
    title: str
    status: CandidateStatus
    verdict: GateVerdict | CandidateStatus
    """Of its gates on validation, or why it has none."""
    reason: str
    """Why it goes on or does not."""
    score: float | None = None
    score_drop: float | None = None
    """Against the teacher."""
    correlation: float | None = None
    """With the teacher."""
    p50: Mapping[int, float] = field(default_factory=dict)
    """Microseconds by batch size."""
    size_bytes: Annotated[int | None, Field(alias="bytes")] = None
    threads: int | None = None
    latency_ratio: Annotated[LatencyRatio | None, Field(alias="slower")] = None
    """Against the fastest eligible one; None if it is not eligible."""


@dataclass(frozen=True)
class CandidateChoice:
    """Which candidate goes on, and how they were compared."""

    winner: str
    has_passed: Annotated[bool, Field(alias="passed")]
    """Whether the winner passed its gates on validation."""
    summary: str
    split: str
    samples: int
    score_name: str
    batch: int
    timing: TimingConditions | None
    candidates: tuple[CandidateResult, ...]
    """In the recipe's order."""

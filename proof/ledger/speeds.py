"""Speeds: how fast engines are beside the teacher's own graph, whatever their weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attar.proof.estimates.bounds import ConfidenceBounds


@dataclass(frozen=True)
class EngineSpeed:
    """What an engine takes, or why it was not timed."""

    why: str | None = None
    """Why it was not timed: its precision is refused, or its runtime is not on this machine."""
    p50: Mapping[int, float] = field(default_factory=dict)
    """The median time of a call in microseconds, by batch size."""
    size_bytes: int = 0
    speedup: float = 0.0
    """How many times as fast as the reference at the batch size that decides: the median over
    rounds."""
    bounds: ConfidenceBounds | None = None
    """Of the speedup."""


@dataclass(frozen=True)
class EngineSpeeds:
    engines: Mapping[str, EngineSpeed]
    reference_p50: Mapping[int, float]
    """By batch size."""
    reference_spread: Mapping[int, float]
    """How many times as long the reference took beside some engines as beside others."""

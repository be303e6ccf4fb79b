"""Ladder: ways to bake the same precision in, each dearer than the one before, until one is faithful enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import UnsupportedModelError

REFUSED_CORRELATION = -1.0
"""That a correlation can be: what was refused is never the best."""


@dataclass(frozen=True)
class Attempt:
    """``make(file)`` writes the graph and returns facts of it."""

    name: str
    make: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class AttemptResult:
    name: str
    file: Path
    correlation: float
    facts: dict[str, Any]


AttemptPlan = Callable[[Sequence[AttemptResult]], Iterable[Attempt]]
"""The rungs; what it is given holds, whenever the next one is asked for, what became of those before."""


def run_attempts(
    plan: AttemptPlan, measure: Callable[[Path], float], floor: float, folder: Path
) -> list[AttemptResult]:
    """What was tried, in order: up to the first rung at or above the floor, or all. A rung above it is never made.

    Of a rung that is refused the facts say why; the first one that is refused is an error.
    """
    tried: list[AttemptResult] = []
    for rung in plan(tried):
        file = folder / f"{rung.name}.onnx"
        try:
            facts = rung.make(file)
            tried.append(AttemptResult(rung.name, file, measure(file), facts))
        except UnsupportedModelError as refusal:
            if not tried:
                raise
            tried.append(
                AttemptResult(rung.name, file, REFUSED_CORRELATION, {"refused": str(refusal)})
            )
        if tried[-1].correlation >= floor:
            break
    return tried


def select_best(tried: Iterable[AttemptResult]) -> AttemptResult:
    """The most faithful; of equals the first, which was the cheapest."""
    return max(tried, key=lambda each: each.correlation)

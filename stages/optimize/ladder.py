"""Attempts at the same precision, each more expensive, until one is similar enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import UnsupportedModelError

REFUSED_CORRELATION = -1.0
"""The least correlation: an attempt that was refused is never the best."""


@dataclass(frozen=True)
class Attempt:
    """One way to write a graph: ``make(file)`` writes it and returns facts of it."""

    name: str
    make: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class AttemptResult:
    name: str
    file: Path
    correlation: float
    facts: dict[str, Any]


AttemptPlan = Callable[[Sequence[AttemptResult]], Iterable[Attempt]]
"""Yields attempts. Its argument has the results of all attempts before the next one."""


def run_attempts(
    plan: AttemptPlan, measure: Callable[[Path], float], floor: float, folder: Path
) -> list[AttemptResult]:
    """Return the results in order, up to the first at or above the floor, or all.

    No attempt is made after that. The facts of an attempt that is refused say why; if the first one
    is refused, that is an error.
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
    """Return the result most similar to the teacher; of equals the first, the cheapest."""
    return max(tried, key=lambda each: each.correlation)

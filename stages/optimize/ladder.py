"""Attempts at the same precision, each more expensive, until one is similar enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.pipeline.core.errors import UnsupportedModelError
from attar.pipeline.core.stage import Facts

REFUSED_CORRELATION = -1.0
"""The least correlation: an attempt that was refused is never the best."""


@dataclass(frozen=True)
class Attempt:
    """One way to write a graph: ``make(file)`` writes it and returns facts of it."""

    name: str
    make: Callable[[Path], Facts]


@dataclass(frozen=True)
class AttemptResult:
    name: str
    file: Path
    correlation: float
    facts: Facts


AttemptPlan = Callable[[Sequence[AttemptResult]], Iterable[Attempt]]
"""Yields attempts. Its argument has the results of all attempts before the next one."""


def run_attempts(
    plan: AttemptPlan, measure: Callable[[Path], float], floor: float, folder: Path
) -> list[AttemptResult]:
    """Return the results in order, up to the first at or above the floor, or all.

    No attempt is made after that. The facts of an attempt that is refused say why; if the first one
    is refused, that is an error.
    """
    results: list[AttemptResult] = []
    for attempt in plan(results):
        file = folder / f"{attempt.name}.onnx"
        try:
            facts = attempt.make(file)
            results.append(AttemptResult(attempt.name, file, measure(file), facts))
        except UnsupportedModelError as refusal:
            if not results:
                raise
            facts = {"refused": str(refusal)}
            results.append(AttemptResult(attempt.name, file, REFUSED_CORRELATION, facts))
        if results[-1].correlation >= floor:
            break
    return results


def select_best(results: Iterable[AttemptResult]) -> AttemptResult:
    """Return the result most similar to the teacher; of equals the first, the cheapest."""
    return max(results, key=lambda result: result.correlation)

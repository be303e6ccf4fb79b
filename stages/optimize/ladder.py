"""Ladder: ways to bake the same precision in, each dearer than the one before, until one is faithful enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import UnsupportedModelError

LEAST = -1.0
"""That a correlation can be: what was refused is never the best."""


@dataclass(frozen=True)
class Rung:
    """``make(file)`` writes the graph and returns facts of it."""

    name: str
    make: Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Tried:
    name: str
    file: Path
    correlation: float
    facts: dict[str, Any]


Plan = Callable[[Sequence[Tried]], Iterable[Rung]]
"""The rungs; what it is given holds, whenever the next one is asked for, what became of those before."""


def climb(plan: Plan, measure: Callable[[Path], float], floor: float, folder: Path) -> list[Tried]:
    """What was tried, in order: up to the first rung at or above the floor, or all. A rung above it is never made.

    Of a rung that is refused the facts say why; the first one that is refused is an error.
    """
    tried: list[Tried] = []
    for rung in plan(tried):
        file = folder / f"{rung.name}.onnx"
        try:
            facts = rung.make(file)
            tried.append(Tried(rung.name, file, measure(file), facts))
        except UnsupportedModelError as refusal:
            if not tried:
                raise
            tried.append(Tried(rung.name, file, LEAST, {"refused": str(refusal)}))
        if tried[-1].correlation >= floor:
            break
    return tried


def best(tried: Iterable[Tried]) -> Tried:
    """The most faithful; of equals the first, which was the cheapest."""
    return max(tried, key=lambda each: each.correlation)

"""One gate in words, the same on every page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attar.pipeline.report import words

Gate = Mapping[str, Any]
SAYS: Mapping[str, Callable[[float | None], str]] = {
    "speedup": words.times,
    "kdl": words.small,
    "largest_difference": words.small,
}
"""How the numbers of a gate are written; the others are scores. So a promise, the ledger and a gate show the same digits."""


def decides(gate: Gate) -> bool:
    """Whether the verdict depends on it: what is promised of the engine only shows, at the hops before it, where it broke."""
    return bool(gate.get("decides", True))


def name(gate: Gate) -> str:
    return str(gate["gate"]).replace("_", " ")


def promise(gate: Gate) -> str:
    return words.minus(words.clean(str(gate["promise"])))


def measured(gate: Gate) -> str:
    """A number, a factor, or whether the answers were usable."""
    value = gate["measured"]
    if gate["gate"] == "sound" and value is not None:
        return f"no, {words.count(value)} samples" if value else "yes"
    return SAYS.get(gate["gate"], words.score)(value)


def margin(gate: Gate) -> str:
    """How far inside the promise it is, below zero outside; empty for one that is kept or not, and has no distance."""
    value = gate["margin"]
    if gate["gate"] == "sound" or value is None:
        return ""
    shown = SAYS.get(gate["gate"], words.score)(abs(value))
    return f"−{shown}" if value < 0 else f"+{shown}"


def found(gate: Gate, other: str) -> str:
    """``engine correlation against model: 0.9431 (at least 0.98, margin −0.0369)``; ``other`` is what it is compared with."""
    compared = "" if other == "absolute" else f" against {other}"
    inside = f", margin {margin(gate)}" if margin(gate) else ""
    return f"{words.clean(gate['hop'])} {name(gate)}{compared}: {measured(gate)} ({promise(gate)}{inside})"

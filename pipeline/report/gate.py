"""One gate in words, the same on every page: what is promised, against what, the evidence, and what would decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from attar.pipeline.report import words

Gate = Mapping[str, Any]
"""A row of the verdict's ``gates``, of ``gate``, ``hop``, ``against``, ``promise``, ``limit``, ``measured``, ``bounds``,
``samples``, ``margin``, ``verdict``, ``decides``, ``note`` and ``would_decide``."""
BOUNDS = (
    "In brackets stand one-sided 95 % bounds of what was measured. A promise is passed when the bound is inside it, failed when "
    "the opposite bound is outside, and otherwise undecided. Counts and largest differences are exact and have none."
)
"""Said once on every page with gates."""
NAMES = {
    "sound": "sound answers",
    "teacher_score": "score",
    "leak": "test samples that are nearly training samples",
    "kdl": "KDL",
}
"""Gates whose name in a recipe says too little, or that no recipe names."""
YES_OR_NO = {"sound": "samples", "sizes": "sizes"}
"""What is counted where a promise is broken; kept is kept, so such a gate has no distance to a limit."""
SAYS: Mapping[str, Callable[[float | None], str]] = {
    "speedup": words.times,
    "kdl": words.small,
    "largest_difference": words.small,
}
"""How the numbers of a gate are written; the others are scores. So a promise, the ledger and a gate show the same digits."""


def decides(gate: Gate) -> bool:
    """Whether the verdict depends on it: what is promised of the engine only shows, at the hops before it, where it broke."""
    return bool(gate["decides"])


def by_hop(gates: Sequence[Gate]) -> list[tuple[str, list[Gate]]]:
    """The gates of each hop, in the order in which they come."""
    return [(hop, list(rows)) for hop, rows in groupby(gates, lambda gate: str(gate["hop"]))]


def name(gate: Gate) -> str:
    return NAMES.get(gate["gate"], str(gate["gate"]).replace("_", " "))


def compared(other: str) -> str:
    """``against the teacher``; empty for what is compared with nothing. ``other`` is a hop, ``absolute`` or ``production``."""
    if other == "absolute":
        return ""
    known = {"teacher": "the teacher", "reference": "the reference", "production": "the bundle in production"}
    return f"against {known.get(other, words.clean(other))}"


def title(gate: Gate, other: str) -> str:
    """``score drop against the teacher``."""
    return f"{name(gate)} {compared(other)}".strip()


def promise(gate: Gate) -> str:
    return words.minus(words.clean(str(gate["promise"])))


def number(gate: Gate, value: float | None) -> str:
    return SAYS.get(gate["gate"], words.score)(value)


def measured(gate: Gate) -> str:
    """A number, a factor, or whether the answers were usable."""
    value = gate["measured"]
    if gate["gate"] in YES_OR_NO and value is not None:
        return f"no, {words.count(value)} {YES_OR_NO[gate['gate']]}" if value else "yes"
    return number(gate, value)


def bounds(gate: Gate) -> str:
    """``0.0081 to 0.0142``; empty where the number is exact or was not measured here."""
    return words.span(gate["bounds"], lambda value: number(gate, value))


def support(gate: Gate) -> str:
    """What the bounds rest on: ``2 000 samples``, or rounds of timing; empty where there are none."""
    of = "rounds" if gate["gate"] == "speedup" else "samples"
    return "" if gate["samples"] is None else f"{words.count(gate['samples'])} {of}"


def evidence(gate: Gate) -> str:
    """``0.0111 (0.0081 to 0.0142)``."""
    return f"{measured(gate)} ({bounds(gate)})" if bounds(gate) else measured(gate)


def margin(gate: Gate) -> str:
    """How far inside the promise the estimate is, below zero outside; empty for one that is kept or not, and has no distance."""
    value = gate["margin"]
    if gate["gate"] in YES_OR_NO or value is None:
        return ""
    shown = number(gate, abs(value))
    return f"−{shown}" if value < 0 else f"+{shown}"


def note(gate: Gate) -> str:
    """The evidence in words, where a number says little."""
    return words.minus(words.clean(gate["note"] or ""))


def remedy(gate: Gate) -> str:
    """What would decide an undecided one: ``about 900 samples would decide``, or that no number would."""
    said = words.clean(gate["would_decide"] or "")
    return f"{said} would decide" if said.startswith("about") else said


def claim(gate: Gate, other: str) -> str:
    """``engine correlation against model``; ``other`` is what it is compared with."""
    return f"{words.clean(gate['hop'])} {title(gate, other)}"


def found(gate: Gate, other: str) -> str:
    """``engine correlation against model: 0.9431 (0.9402 to 0.9460), promised at least 0.98``."""
    said = "not run here" if gate["measured"] is None else evidence(gate)
    return f"{claim(gate, other)}: {said}, promised {promise(gate)}"


def rest(gate: Gate) -> str:
    """What ``found`` leaves out: the note, and what would decide, or else the margin."""
    inside = f"margin {margin(gate)}" if margin(gate) and not remedy(gate) else ""
    return "; ".join(filter(None, [note(gate), remedy(gate), inside]))


def sentence(gate: Gate, other: str) -> str:
    """A gate that is not passed, with its evidence and what would decide."""
    return words.sentence("; ".join(filter(None, [f"{gate['verdict']}: {found(gate, other)}", note(gate), remedy(gate)])))

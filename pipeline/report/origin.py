"""OACC and the control: what the original scores, and what the student would have scored without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.pipeline.report import words
from attar.pipeline.report.record import Record
from attar.pipeline.report.target import Hop, Target


@dataclass(frozen=True)
class Origin:
    """The teacher, the student and the control side by side, before any conversion, and what follows from them."""

    score_name: str
    oacc: float | None
    hops: Sequence[Hop]
    needed: bool | None
    """Whether distillation was needed; None: it cannot be told."""
    says: str


def origin(found: Sequence[Target], records: Sequence[Record]) -> Origin | None:
    """From the first target that has evidence, for these hops are the same in all; None when none has."""
    target = next((target for target in found if target.hops), None)
    if target is None:
        return None
    hops = [hop for name in ("teacher", "student", "control") if (hop := target.hop(name))]
    needed, says = judged(target, trained(records))
    return Origin(target.score_name, target.evidence.get("oacc"), hops, needed, says)


def trained(records: Sequence[Record]) -> bool:
    """Whether there is a control that is not switched off."""
    return any(r.slot == "control" and r.status in ("made", "reused") and not r.facts.get("off") for r in records)


def judged(target: Target, has_control: bool) -> tuple[bool | None, str]:
    """What the verdict says of the control, as a sentence."""
    if not target.hop("control"):
        why = "it was not measured" if has_control else "none was trained; [control] enabled = true trains one"
        return None, f"Whether distillation was needed cannot be told without a control: {why}."
    found = target.facts("verdict").get("distillation")
    if found is None:
        return None, "No score drop is promised, so the control cannot say whether distillation was needed."
    says = words.minus(found["says"])
    return found["needed"], says[0].upper() + says[1:] + "."

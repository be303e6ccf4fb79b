"""OACC and the control: the teacher's score, and the student's score without the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from attar.proof.gate import Gate
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting
from attar.proof.report.record import Record
from attar.proof.report.target import Target


@dataclass(frozen=True)
class Origin:
    """The teacher, the student and the control, before any conversion, and what follows from
    them."""

    names: Sequence[str]
    """The targets that it holds for."""
    target: Target
    """The first of them, whose evidence it is."""
    hops: Sequence[Hop]
    gain: tuple[str, str] | None
    """The student's score minus the control's, and its bounds; None without a control."""
    gates: Sequence[Gate]
    """The promises, had the control made them."""
    answer: str
    """``needed``, ``not needed``, ``undecided``, or ``not asked`` without a control or a limit for
    it."""
    says: str


def find_origins(found: Sequence[Target], records: Sequence[Record]) -> list[Origin]:
    """Return what the control says, once for all targets that it says the same of.

    Targets may promise differently. Without a control the first target with a ledger has all that
    is known.
    """
    alike: dict[str, list[Target]] = {}
    for target in found:
        if target.control is not None:
            alike.setdefault(target.control.summary, []).append(target)
    if alike:
        return [build_origin(targets, records) for targets in alike.values()]
    return [build_origin([target], records) for target in found if target.hops][:1]


def build_origin(targets: Sequence[Target], records: Sequence[Record]) -> Origin:
    target, names = targets[0], [target.name for target in targets]
    hops = [hop for name in ("teacher", "student", "control") if (hop := target.find_hop(name))]
    gain, control = format_gain(target), target.control
    if control is None:
        return Origin(names, target, hops, gain, (), "not asked", explain_unasked(target, records))
    need = describe_need(control.is_distillation_needed)
    says = formatting.format_sentence(control.summary)
    return Origin(names, target, hops, gain, control.gates, need, says)


def describe_need(is_needed: bool | None) -> str:
    return "undecided" if is_needed is None else "needed" if is_needed else "not needed"


def format_gain(target: Target) -> tuple[str, str] | None:
    """``("+0.0047", "−0.0003 to +0.0097")``."""
    gain = target.ledger.gain if target.ledger else None
    if gain is None:
        return None
    format_signed = partial(formatting.format_change, places=4)
    return format_signed(gain.value), formatting.format_range(gain.bounds, format_signed)


def explain_unasked(target: Target, records: Sequence[Record]) -> str:
    """Why nobody knows whether distillation was needed."""
    if target.find_hop("control"):
        return (
            "Nothing is promised that the control could keep, so it cannot say whether "
            "distillation was needed."
        )
    if target.ledger and set(target.ledger.kinds.values()) == {"embedding"}:
        return (
            "Whether distillation was needed cannot be told: embeddings have no labels, from "
            "which one could learn without it."
        )
    why = (
        "it was not measured"
        if has_trained_control(records)
        else f"none was trained; {offer_control(records)}"
    )
    return f"Whether distillation was needed cannot be told without a control: {why}."


def offer_control(records: Sequence[Record]) -> str:
    """Return how to turn the control on, and how long its training takes."""
    took = next(
        (record.seconds for record in records if record.slot == "student" and record.seconds), None
    )
    cost = (
        ""
        if took is None
        else f", in about the {formatting.format_seconds(took)} that the student took"
    )
    return f"[control] enabled = true trains one, the same student on the labels alone{cost}"


def explain_missing_control(found: Sequence[Target], records: Sequence[Record]) -> str | None:
    """Return why it is unknown whether distillation was needed, and what to do.

    Return None if the control tells it.
    """
    seen = find_origins(found, records)
    return seen[0].says if seen and seen[0].answer == "not asked" else None


def has_trained_control(records: Sequence[Record]) -> bool:
    """Whether there is a control that is not switched off."""
    return any(
        r.slot == "control" and r.status in ("made", "reused") and not r.facts.get("off")
        for r in records
    )

"""The control: what the teacher was worth, judged by the same student trained without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attar.proof.estimates.bounds import Estimate
from attar.proof.gate import Gate, GateVerdict, combine_verdicts
from attar.proof.ledger.ledger import Ledger
from attar.proof.verdicts.gate_evaluation import evaluate_control_gates
from attar.proof.verdicts.gate_text import (
    format_kept_gate,
    format_limit,
    format_metric,
    format_value,
)
from attar.proof.verdicts.limits import GateLimits

NEEDED: Mapping[GateVerdict, bool | None] = {"passed": False, "failed": True, "undecided": None}


@dataclass(frozen=True)
class ControlVerdict:
    """Whether the control keeps what is promised of the engine against the teacher."""

    is_distillation_needed: bool | None
    """None: undecided."""
    gain: Estimate
    """The student's score minus the control's."""
    gates: tuple[Gate, ...]
    """The limits of the engine, applied to the control."""
    summary: str
    """One sentence."""


def judge_control(ledger: Ledger, limits: GateLimits) -> ControlVerdict | None:
    """Return None without a control, or if nothing is promised that it could keep."""
    gates = evaluate_control_gates(ledger, limits)
    if not gates or ledger.gain is None:
        return None
    is_needed = NEEDED[combine_verdicts(gate.verdict for gate in gates)]
    gain_text = format_gain(ledger.gain, ledger.score_name)
    summary = f"{summarize_gates(is_needed, gates)}; {gain_text}"
    return ControlVerdict(is_needed, ledger.gain, tuple(gates), summary)


def summarize_gates(is_needed: bool | None, gates: Sequence[Gate]) -> str:
    if is_needed is False:
        kept = ", ".join(format_kept_gate(gate) for gate in gates)
        return (
            "distillation was not needed: the same student without a teacher keeps every "
            f"promise: {kept}"
        )
    verdict = "failed" if is_needed else "undecided"
    open_gates = ", ".join(format_open_gate(gate) for gate in gates if gate.verdict == verdict)
    if is_needed:
        return f"distillation was needed: the same student without a teacher has {open_gates}"
    return (
        "whether distillation was needed is undecided: the same student without a teacher has "
        f"{open_gates}"
    )


def format_open_gate(gate: Gate) -> str:
    metric = format_metric(gate.comparison.metric)
    return f"{metric} {format_value(gate)} where {format_limit(gate)} is promised"


def format_gain(gain: Estimate, score_name: str) -> str:
    """Return the gain in score with its bounds, and whether it is proven."""
    bounds = gain.bounds
    evidence = f"{gain.value:+.4f} ({bounds.low:+.4f} to {bounds.high:+.4f})"
    if bounds.low > 0:
        return f"it gained {evidence} in {score_name}"
    if bounds.high < 0:
        return f"it cost {evidence} in {score_name}"
    return f"no gain in {score_name} is shown: {evidence}"

"""The verdict of a target: what its gates amount to, and a sentence about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.proof.gate import Gate, GateVerdict, combine_verdicts
from attar.proof.hop import CHAIN, HOPS, HopName
from attar.proof.verdicts.control import ControlVerdict
from attar.proof.verdicts.gate_text import format_gate, format_kept_gate, format_remedy

IMPLIED_METRICS = ("sound", "sizes", "leak", "loop")
"""Metrics that have a limit though no recipe sets one."""


@dataclass(frozen=True)
class TargetVerdict:
    """What all gates of a target amount to."""

    verdict: GateVerdict
    first_broken_hop: HopName | None
    margin: float | None
    """That of the gate in the summary, if one failed."""
    summary: str
    """One sentence."""
    gates: tuple[Gate, ...]
    control: ControlVerdict | None = None
    """What the control says of the target; None without a control."""


def judge_target(gates: Sequence[Gate], why_engine_not_run: str | None = None) -> TargetVerdict:
    """Return the verdict that follows from the gates.

    If several required gates failed, the summary reports one at the first broken hop.
    """
    verdict = combine_verdicts(gate.verdict for gate in gates if gate.required)
    worst = [gate for gate in gates if gate.required and gate.verdict == verdict]
    if verdict == "failed":
        return report_failure(worst, gates)
    if verdict == "passed":
        summary = summarize_passed_gates(gates)
    elif verdict == "undecided":
        summary = f"undecided: {format_gate(worst[0])}; {format_remedy(worst[0])}"
    else:
        reason = f"{verdict}: {format_gate(worst[0])}"
        if why_engine_not_run:
            reason = f"the engine was not run here: {why_engine_not_run}"
        summary = f"{reason}; every gate of what was run is passed"
    return TargetVerdict(verdict, None, None, summary, tuple(gates))


def report_failure(failed: Sequence[Gate], gates: Sequence[Gate]) -> TargetVerdict:
    """Return a failed verdict.

    Of the failed gates that lead to the first broken hop, one that the recipe sets is reported
    rather than a default between two hops.
    """
    hop = min((find_first_failed_hop(gate, gates) for gate in failed), key=HOPS.index)
    candidates = [gate for gate in failed if find_first_failed_hop(gate, gates) == hop]
    reported = min(candidates, key=lambda gate: gate.comparison.baseline == "previous")
    summary = f"{format_gate(reported)} (first broken hop: {hop})"
    return TargetVerdict("failed", hop, reported.margin, summary, tuple(gates))


def find_first_failed_hop(failed: Gate, gates: Sequence[Gate]) -> HopName:
    """Return the first hop on the way to the failed gate's that violates the same limit.

    Its gate may be undecided. A hop beside the way, such as production, is only named for a gate of
    its own.
    """
    own = failed.comparison.hop
    return next(
        gate.comparison.hop
        for gate in gates
        if has_same_limit(gate, failed)
        and gate.exceeds_limit
        and (gate.comparison.hop in CHAIN or gate.comparison.hop == own)
    )


def has_same_limit(gate: Gate, other: Gate) -> bool:
    """Whether both hold the same metric against the same baseline.

    The previous hop is another one for every hop, and so is its limit.
    """
    this, that = gate.comparison, other.comparison
    if (this.metric, this.baseline) != (that.metric, that.baseline):
        return False
    return this.baseline != "previous" or this.hop == that.hop


def summarize_passed_gates(gates: Sequence[Gate]) -> str:
    """Return what was promised and is kept, and what was not promised and so is not proven."""
    promised = [gate for gate in gates if gate.required and is_set_by_recipe(gate)]
    kept = ", ".join(format_kept_gate(gate) for gate in promised)
    if any(gate.comparison.baseline == "teacher" for gate in promised):
        summary = f"Every promise is kept: {kept}"
    else:
        summary = (
            "Nothing was promised of the engine against the teacher; "
            f"kept is {kept or 'what every conversion must keep'}"
        )
    if any(gate.comparison.metric == "teacher_score" for gate in promised):
        return summary
    return f"{summary}; nothing was promised of the teacher itself"


def is_set_by_recipe(gate: Gate) -> bool:
    """Whether the limit is a recipe's, and not one that holds without being set."""
    comparison = gate.comparison
    return comparison.baseline != "previous" and comparison.metric not in IMPLIED_METRICS

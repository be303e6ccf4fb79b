"""Judge: the evidence held against the limits. Changing a limit never measures again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attar.pipeline.core.stage import Facts, Stage
from attar.proof.artifacts import Evidence, Verdict
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.control import judge_control
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.gate_text import (
    explain_idle_drop,
    explain_unchecked_leak,
    explain_unmeasured,
)
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.proof.verdicts.verdict_json import verdict_to_json


class Judge(Stage[Verdict]):
    """Evaluate the gates of a target.

    Facts:

    - ``verdict``: ``passed``, ``failed``, ``undecided`` or ``not run here``
    - ``summary``: one sentence
    - ``first_broken``: the first hop that violates a failed limit
    - ``margin``: the distance from the limit of the gate in the summary, if it failed (negative)
    - ``gates``: for each gate ``gate``, ``hop``, ``against``, ``promise``, ``limit``, ``measured``,
      its ``bounds`` (one-sided at 95 %) and the ``samples`` behind them, ``margin``, ``verdict``,
      ``note``, ``would_decide`` (what would decide an undecided one), and ``decides``: false for
      the hops before the engine, which only show where a limit was violated first
    - ``distillation``: what the control says of it, see ``proof.verdicts.control``
    """

    gates: GateLimits = GateLimits()
    """What is promised; ``[gates]`` of the recipe, unless the target has its own."""

    def run(self, out: Path, *, evidence: Evidence) -> Facts:
        """A failed verdict is a result, not an error: ``Package`` refuses it."""
        ledger = ledger_from_json(evidence.facts)
        why_not_run = ledger.hops["engine"].why_not_run
        verdict = judge_target(evaluate_gates(ledger, self.gates), why_not_run)
        summary = (
            f"{verdict.summary}{explain_idle_drop(ledger, self.gates.score_drop)}"
            f"{explain_unmeasured(ledger)}{explain_unchecked_leak(ledger.leak)}"
        )
        control = judge_control(ledger, self.gates)
        return verdict_to_json(replace(verdict, summary=summary, control=control))

"""Judge: hold the evidence against the promises. Changing a promise never measures again."""

from __future__ import annotations

from pathlib import Path

from attar.pipeline.stage import Facts, Stage
from attar.stages.artifacts import Evidence, Verdict
from attar.stages.proof.control import distillation
from attar.stages.proof.gates import Gates, mention_unlooked, outcomes, verdict


class Judge(Stage[Verdict]):
    """Facts:

    - ``verdict``: ``passed``, ``failed``, ``undecided`` or ``not run here``; ``summary``: one sentence
    - ``first_broken``: the first hop that breaks a promise, and ``margin``: how far the told gate is outside (negative)
    - ``gates``: for each gate ``gate``, ``hop``, ``against``, ``promise``, ``limit``, ``measured``, its ``bounds`` (one-sided at
      95 %) and the ``samples`` that they rest on, ``margin``, ``verdict``, ``note``, ``would_decide`` (what would decide an
      undecided one), and ``decides``: false for the hops before the engine, which only show where a promise was broken first
    - ``distillation``: what the control says of it, see ``proof.control``
    """

    gates: Gates = Gates()
    """What is promised; ``[gates]`` of the recipe, unless the target has its own."""

    def run(self, out: Path, *, evidence: Evidence) -> Facts:
        """A failed verdict is a result, not an error: ``Package`` refuses it."""
        engine = next(hop for hop in evidence.facts["hops"] if hop["hop"] == "engine")
        facts = verdict(outcomes(evidence.facts, self.gates), engine["why"])
        facts["summary"] += mention_unlooked(evidence.facts)
        return {**facts, "distillation": distillation(evidence.facts, self.gates)}

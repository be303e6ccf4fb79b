"""Target: the records of one deployment, read as ledger, gates and verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attar.pipeline.core.stage import Artifact, Facts
from attar.proof.artifacts import Bundle, Choice, Evidence, Verdict
from attar.proof.gate import SEVERITY, Gate
from attar.proof.hop import CHAIN
from attar.proof.ledger.candidates import CandidateChoice
from attar.proof.ledger.ledger import Hop, Ledger
from attar.proof.ledger.ledger_json import from_json, ledger_from_json
from attar.proof.report import formatting
from attar.proof.report.record import Record, describe_status
from attar.proof.verdicts.control import ControlVerdict
from attar.proof.verdicts.verdict import TargetVerdict, has_same_limit
from attar.proof.verdicts.verdict_json import verdict_from_json

NO_VERDICT = "no verdict"
"""What a target without evaluated gates has. Not a verdict: ``--json`` says null."""

RUNNERS = {"PyTorch": "PyTorch eager", "ONNX": "ONNX Runtime"}
"""What runs a teacher, by its format."""


@dataclass(frozen=True)
class Target:
    """One target. Any part may be missing: a run that broke is reported as far as it came."""

    name: str
    records: Sequence[Record]
    """The slots that the target has to itself, in order."""
    shared: Sequence[Record]
    """The slots that all targets share, in order."""

    def find_record(self, kind: type[Artifact]) -> Record | None:
        """Return the slot whose stage makes this kind of artifact."""
        return next((record for record in self.records if record.makes is kind), None)

    def find_facts(self, kind: type[Artifact]) -> Facts:
        """Return the facts of an artifact; empty if there is none."""
        record = self.find_record(kind)
        return {} if record is None else record.facts

    @cached_property
    def ledger(self) -> Ledger | None:
        """None if the run ended before it."""
        facts = self.find_facts(Evidence)
        return ledger_from_json(facts) if facts else None

    @cached_property
    def choice(self) -> CandidateChoice | None:
        """Which candidate goes on; None if the target has none, or none was chosen."""
        return from_json(CandidateChoice, self.find_facts(Choice) or None)

    @property
    def hops(self) -> list[Hop]:
        """Every hop of the ledger, including those that were not run here."""
        return list(self.ledger.hops.values()) if self.ledger else []

    def find_entry(self, name: str) -> Hop | None:
        """Return a hop, whether it was run here or not."""
        return self.ledger.hops.get(name) if self.ledger else None

    def find_hop(self, name: str) -> Hop | None:
        """Return a hop that was run here."""
        hop = self.find_entry(name)
        return hop if hop is not None and hop.was_run else None

    @property
    def timed_teacher(self) -> str:
        """The teacher, with what ran it when it was timed."""
        teacher = self.find_entry("teacher")
        runner = RUNNERS.get(teacher.format) if teacher else None
        return f"the teacher in {runner}" if runner else "the teacher"

    @property
    def devices(self) -> str:
        """Where hops were timed that were timed on no CPU: ``on cuda: reference, engine``."""
        names: dict[str, list[str]] = {}
        for hop in self.hops:
            if hop.was_run and hop.device != "cpu":
                names.setdefault(hop.device, []).append(hop.name)
        return "; ".join(f"on {device}: {', '.join(hops)}" for device, hops in names.items())

    @cached_property
    def last(self) -> Hop | None:
        """The last hop from the student on that was run: the engine, unless it was not run here."""
        hops = [self.find_hop(name) for name in reversed(CHAIN[1:])]
        return next(filter(None, hops), None)

    @cached_property
    def judged(self) -> TargetVerdict | None:
        """The verdict with its gates; None if the run ended before them."""
        facts = self.find_facts(Verdict)
        return verdict_from_json(facts) if facts else None

    @property
    def gates(self) -> Sequence[Gate]:
        return self.judged.gates if self.judged else ()

    @property
    def control(self) -> ControlVerdict | None:
        """What the control says; None without a control, limits for it or a verdict."""
        return self.judged.control if self.judged else None

    @cached_property
    def required_gates(self) -> list[Gate]:
        """The gates that the verdict depends on. These are counted and listed."""
        return [gate for gate in self.gates if gate.required]

    @cached_property
    def open_gates(self) -> list[Gate]:
        """Required gates that were measured and not passed: the failed, then the undecided."""
        verdicts = ("failed", "undecided")
        gates = [gate for gate in self.required_gates if gate.verdict in verdicts]
        return sorted(gates, key=lambda gate: verdicts.index(gate.verdict))

    @property
    def unreported_gates(self) -> list[Gate]:
        """The open gates that the summary leaves out.

        It reports the failed gate with the verdict's margin, or the first undecided one.
        """
        if self.judged is None or self.verdict == "undecided":
            return self.open_gates[1:]
        margin = self.judged.margin
        reported = [
            gate for gate in self.gates if gate.verdict == "failed" and gate.margin == margin
        ]
        return [gate for gate in self.open_gates if not is_any_same_limit(gate, reported)]

    @cached_property
    def traced_gates(self) -> list[Gate]:
        """The required gates, and at earlier hops the gates that show where a failure began."""
        failed = [gate for gate in self.open_gates if gate.verdict == "failed"]
        return [gate for gate in self.gates if gate.required or is_any_same_limit(gate, failed)]

    @property
    def tally(self) -> str:
        """``14 passed, 3 failed``."""
        counts = Counter(gate.verdict for gate in self.required_gates)
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

    def explain_absence(self, name: str) -> str:
        """Return why a hop is not there: ``not run here: needs a GPU``."""
        hop = self.find_entry(name)
        why = hop and hop.why_not_run
        return f"not run here: {why}" if why else "not run here"

    def find_verdict(self, hop: str, metric: str, *baselines: str) -> str:
        """Return the severest verdict of a metric against any of these; empty without a gate."""
        verdicts = [
            gate.verdict
            for gate in self.gates
            if (gate.comparison.hop, gate.comparison.metric) == (hop, metric)
            and gate.comparison.baseline in baselines
        ]
        return min(verdicts, key=SEVERITY.index, default="")

    def find_limit(self, metric: str, baseline: str = "teacher") -> float | None:
        """Return the limit against a baseline: the engine's, or that of the last hop with one."""
        gates = [
            gate
            for gate in self.gates
            if (gate.comparison.metric, gate.comparison.baseline) == (metric, baseline)
        ]
        gates.sort(key=lambda gate: gate.comparison.hop == "engine")
        return gates[-1].limit if gates else None

    @property
    def verdict(self) -> str:
        return self.judged.verdict if self.judged else NO_VERDICT

    @property
    def first_broken(self) -> str | None:
        return self.judged.first_broken_hop if self.judged else None

    @property
    def broken(self) -> list[Record]:
        """Slots that failed on the way to this target."""
        records = (*self.shared, *self.records)
        return [record for record in records if describe_status(record) == "failed"]

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.judged:
            return formatting.format_sentence(self.judged.summary)
        if self.broken:
            return f"No gate was judged: {self.broken[0].slot} failed."
        return "No gate was judged: the run ended before them."

    @property
    def bundle(self) -> Path | None:
        record = self.find_record(Bundle)
        return record.path if record and record.status in ("made", "reused") else None

    @property
    def speed_batch(self) -> int:
        """The batch size that its speed is promised at, and shown."""
        return self.ledger.speed_batch if self.ledger else 1

    def find_p50(self, hop: Hop) -> float | None:
        """Return the median microseconds of a hop at that batch size; None if it was not timed."""
        latency = hop.latencies.get(self.speed_batch)
        return latency.p50 if latency else None

    @property
    def score_name(self) -> str:
        return self.ledger.score_name if self.ledger else "score"


def is_any_same_limit(gate: Gate, others: Sequence[Gate]) -> bool:
    return any(has_same_limit(gate, other) for other in others)


def group_targets(records: Sequence[Record]) -> list[Target]:
    """Return the targets of a run in the recipe's order."""
    shared = [record for record in records if not record.target]
    names = dict.fromkeys(record.target for record in records if record.target)
    return [
        Target(name, [record for record in records if record.target == name], shared)
        for name in names
    ]

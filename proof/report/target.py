"""Target: the records of one deployment, read as evidence, gates and verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from attar.proof.control import ControlVerdict
from attar.proof.gate import SEVERITY, Gate
from attar.proof.hop import CHAIN
from attar.proof.report import formatting
from attar.proof.report.record import Record, describe_status
from attar.proof.verdict import TargetVerdict, has_same_limit
from attar.proof.verdict_json import verdict_from_json

HopRow = Mapping[str, Any]

NO_VERDICT = "no verdict"
"""What a target has that never came as far as its gates. Not a verdict: ``--json`` says null."""


@dataclass(frozen=True)
class Target:
    """One target. Everything of it may be missing: a run that broke is reported as far as it came."""

    name: str
    slots: Mapping[str, Record]
    """By suffix: ``model``, ``engine``, ``evidence``, ``verdict``, ``bundle``; of a candidate ``c1.model`` and so on."""
    shared: Sequence[Record]
    """The slots that all targets share, in order."""

    def facts(self, suffix: str) -> Mapping[str, Any]:
        return self.slots[suffix].facts if suffix in self.slots else {}

    @cached_property
    def evidence(self) -> Mapping[str, Any]:
        return self.facts("evidence")

    @property
    def choice(self) -> Mapping[str, Any]:
        """Which candidate goes on and why; empty where the target has none, or none was chosen."""
        return self.facts("choice")

    @property
    def candidates(self) -> list[Mapping[str, Any]]:
        """Those that it was chosen from, in the recipe's order."""
        return list(self.choice.get("candidates", ()))

    @cached_property
    def hops(self) -> list[HopRow]:
        """Every hop of the ledger, the ones that did not run here included."""
        return list(self.evidence.get("hops", ()))

    def entry(self, name: str) -> HopRow:
        """One hop, whether it ran here or not; empty when it is not there."""
        return next((hop for hop in self.hops if hop["hop"] == name), {})

    def hop(self, name: str) -> HopRow:
        """One measured hop; empty when it is not there or did not run here."""
        found = self.entry(name)
        return found if is_measured(found) else {}

    @cached_property
    def last(self) -> HopRow:
        """The last measured hop of the chain that is not the teacher: the engine, unless it did not run here."""
        found = [self.hop(name) for name in CHAIN[1:]]
        return next((hop for hop in reversed(found) if hop), {})

    @cached_property
    def judged(self) -> TargetVerdict | None:
        """The verdict with its gates; None if the run ended before them."""
        facts = self.facts("verdict")
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
        """Required gates that were measured and not passed: first the failed, then the undecided."""
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
    def production(self) -> Mapping[str, Any] | None:
        """How the engine compares with the bundle in production; None where it was not compared."""
        found: Mapping[str, Any] | None = self.hop("engine").get("production")
        return found

    @property
    def tally(self) -> str:
        """``14 passed, 3 failed``."""
        counts = Counter(gate.verdict for gate in self.required_gates)
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

    def absence(self, hop: str) -> str:
        """Why a hop is not there: ``not run here: needs a GPU``."""
        why = self.entry(hop).get("why")
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

    def find_limit(self, metric: str) -> float | None:
        """Return the limit against the teacher: the engine's, or that of the last hop with one."""
        gates = [
            gate
            for gate in self.gates
            if (gate.comparison.metric, gate.comparison.baseline) == (metric, "teacher")
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
        return [
            record
            for record in (*self.shared, *self.slots.values())
            if describe_status(record) == "failed"
        ]

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
        record = self.slots.get("bundle")
        return record.path if record and record.status in ("made", "reused") else None

    @property
    def score_name(self) -> str:
        return str(self.evidence.get("score_name", "score"))


def is_any_same_limit(gate: Gate, others: Sequence[Gate]) -> bool:
    return any(has_same_limit(gate, other) for other in others)


def is_measured(hop: HopRow) -> bool:
    return hop.get("status") == "measured"


def read_number(hop: HopRow, *path: str) -> float | None:
    """``hop["latency"]["1"]["p50"]`` and the like; None where the hop has no such thing."""
    value: Any = hop
    for name in path:
        value = (value or {}).get(name)
    return None if value is None else float(value)


def read_metric(hop: HopRow, other: str, name: str) -> float | None:
    """How a hop compares with the ``teacher`` or with the ``previous`` one; None where it is not compared so."""
    return read_number(hop, other, name)


def read_bounds(hop: HopRow, other: str, name: str) -> Sequence[float] | None:
    """The one-sided 95 % bounds of ``against``; None where it is not compared so."""
    if not hop.get(other):
        return None
    found: Sequence[float] | None = hop[other]["bounds"].get(name)
    return found


def group_targets(records: Sequence[Record]) -> list[Target]:
    """The targets of a run in the recipe's order; a slot is a target's when its name holds a dot."""
    shared = [record for record in records if "." not in record.slot]
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        name, dot, suffix = record.slot.partition(".")
        if dot:
            found.setdefault(name, {})[suffix] = record
    return [Target(name, slots, shared) for name, slots in found.items()]

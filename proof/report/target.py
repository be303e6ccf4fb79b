"""Target: the records of one deployment, read as evidence, gates and verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from attar.proof.report import words
from attar.proof.report.gate import Gate, decides
from attar.proof.report.record import Record, outcome

Hop = Mapping[str, Any]

NO_VERDICT = "no verdict"
"""What a target has that never came as far as its gates. Not a verdict: ``--json`` says null."""
CHAIN = ("teacher", "student", "onnx", "model", "engine")
"""The way from teacher to engine; ``reference``, ``control`` and ``production`` stand beside it."""


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
    def hops(self) -> list[Hop]:
        """Every hop of the ledger, the ones that did not run here included."""
        return list(self.evidence.get("hops", ()))

    def entry(self, name: str) -> Hop:
        """One hop, whether it ran here or not; empty when it is not there."""
        return next((hop for hop in self.hops if hop["hop"] == name), {})

    def hop(self, name: str) -> Hop:
        """One measured hop; empty when it is not there or did not run here."""
        found = self.entry(name)
        return found if measured(found) else {}

    @cached_property
    def last(self) -> Hop:
        """The last measured hop of the chain that is not the teacher: the engine, unless it did not run here."""
        found = [self.hop(name) for name in CHAIN[1:]]
        return next((hop for hop in reversed(found) if hop), {})

    @cached_property
    def gates(self) -> list[Gate]:
        return list(self.facts("verdict").get("gates", ()))

    @cached_property
    def deciding(self) -> list[Gate]:
        """The gates that the verdict depends on. These are counted and listed."""
        return [gate for gate in self.gates if decides(gate)]

    @cached_property
    def wrong(self) -> list[Gate]:
        """Deciding gates that were measured and not kept: the failed ones, then the undecided ones."""
        return [gate for verdict in ("failed", "undecided") for gate in self.deciding if gate["verdict"] == verdict]

    @property
    def untold(self) -> list[Gate]:
        """Of the gates in ``wrong`` those that the summary leaves out: it tells that with the verdict's margin, or the first."""
        if self.verdict == "undecided":
            return self.wrong[1:]
        margin = self.facts("verdict")["margin"] if self.wrong else None
        told = {
            (gate["gate"], gate["against"]) for gate in self.gates if gate["verdict"] == "failed" and gate["margin"] == margin
        }
        return [gate for gate in self.wrong if (gate["gate"], gate["against"]) not in told]

    @cached_property
    def traced(self) -> list[Gate]:
        """The deciding gates, and where the engine broke a promise, the same one at the hops before: they show where it broke."""
        broken = {(gate["gate"], gate["against"]) for gate in self.wrong if gate["verdict"] == "failed"}
        return [gate for gate in self.gates if decides(gate) or (gate["gate"], gate["against"]) in broken]

    @cached_property
    def distillation(self) -> Mapping[str, Any] | None:
        """What the control says, ``needed gain bounds gates says``; None without a control, promises or a verdict."""
        found: Mapping[str, Any] | None = self.facts("verdict").get("distillation")
        return found

    @property
    def production(self) -> Mapping[str, Any] | None:
        """How the engine compares with the bundle in production; None where it was not compared."""
        found: Mapping[str, Any] | None = self.hop("engine").get("production")
        return found

    @property
    def tally(self) -> str:
        """``14 passed, 3 failed``."""
        counts = Counter(str(gate["verdict"]) for gate in self.deciding)
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

    def other(self, gate: Gate) -> str:
        """What a gate compares its hop with: another hop, or ``absolute`` for nothing."""
        if gate["against"] != "previous":
            return str(gate["against"])
        hop = self.hop(gate["hop"])
        return str((hop.get("previous") or {}).get("hop", "the hop before"))

    def absence(self, hop: str) -> str:
        """Why a hop is not there: ``not run here: needs a GPU``."""
        why = self.entry(hop).get("why")
        return f"not run here: {why}" if why else "not run here"

    def judged(self, hop: str, gate: str, *others: str) -> str:
        """The severest verdict of this gate at this hop against any of these; empty where nothing is promised so."""
        verdicts = {
            each["verdict"] for each in self.gates if (each["hop"], each["gate"]) == (hop, gate) and each["against"] in others
        }
        return next((verdict for verdict in ("failed", "undecided", "not run here", "passed") if verdict in verdicts), "")

    def limit(self, gate: str, against: str = "teacher") -> float | None:
        """The promise of this name: the engine's where it has one, or that of the last hop which has."""
        same = [g for g in self.gates if g["gate"] == gate and g["against"] == against]
        same.sort(key=lambda g: g["hop"] == "engine")
        return float(same[-1]["limit"]) if same else None

    @property
    def verdict(self) -> str:
        return str(self.facts("verdict").get("verdict") or NO_VERDICT)

    @property
    def first_broken(self) -> str | None:
        broken = self.facts("verdict").get("first_broken")
        return None if broken is None else str(broken)

    @property
    def broken(self) -> list[Record]:
        """Slots that failed on the way to this target."""
        return [record for record in (*self.shared, *self.slots.values()) if outcome(record) == "failed"]

    @property
    def summary(self) -> str:
        """One sentence."""
        if said := str(self.facts("verdict").get("summary") or ""):
            return words.sentence(said)
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


def measured(hop: Hop) -> bool:
    return hop.get("status") == "measured"


def number(hop: Hop, *path: str) -> float | None:
    """``hop["latency"]["1"]["p50"]`` and the like; None where the hop has no such thing."""
    value: Any = hop
    for name in path:
        value = (value or {}).get(name)
    return None if value is None else float(value)


def against(hop: Hop, other: str, name: str) -> float | None:
    """How a hop compares with the ``teacher`` or with the ``previous`` one; None where it is not compared so."""
    return number(hop, other, name)


def bounds(hop: Hop, other: str, name: str) -> Sequence[float] | None:
    """The one-sided 95 % bounds of ``against``; None where it is not compared so."""
    if not hop.get(other):
        return None
    found: Sequence[float] | None = hop[other]["bounds"].get(name)
    return found


def targets(records: Sequence[Record]) -> list[Target]:
    """The targets of a run in the recipe's order; a slot is a target's when its name holds a dot."""
    shared = [record for record in records if "." not in record.slot]
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        name, dot, suffix = record.slot.partition(".")
        if dot:
            found.setdefault(name, {})[suffix] = record
    return [Target(name, slots, shared) for name, slots in found.items()]

"""Gates: what is promised, and whether the ledger keeps it.

The engine is what ships, so its promises decide; the hops before it are held to the same promises only to find where a promise
was broken first. Every conversion is also held to the hop before it, and every hop must give finite answers that depend on its
input. A hop that was not run here keeps no promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from attar.pipeline.errors import StageError
from attar.stages.proof.ledger import PREVIOUS

Decision = Literal["passed", "failed", "undecided", "not run here"]
Against = Literal["teacher", "previous", "reference", "absolute"]
GATED = ("teacher", "reference", "student", "onnx", "model", "engine")
CUMULATIVE = ("student", "onnx", "model", "engine")
AT_MOST = {"score_drop", "kdl", "largest_difference", "sound"}
ROUNDING = 1e-12  # 0.9 - 0.875 is more than 0.025 in floating point; at the limit is inside
SEVERITY: Sequence[Decision] = ("failed", "undecided", "not run here")


class Promises(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HopGates(Promises):
    """What each conversion must keep of the hop before it."""

    largest_difference: float = Field(1e-3, ge=0)
    """The student's ONNX graph against the student: the same arithmetic, so only rounding may differ."""
    correlation: float = Field(0.98, ge=-1, le=1)
    """Every other conversion: int8 and fused kernels move each output a little."""
    score_drop: float = 0.02
    """As ``correlation``; negative demands a gain."""


class Gates(Promises):
    """Promises of the engine against the teacher on the test split; what is None is not promised."""

    score_drop: float | None = None
    correlation: float | None = Field(None, ge=-1, le=1)
    agreement: float | None = Field(None, ge=0, le=1)
    kdl: float | None = Field(None, ge=0)
    speedup: float | None = Field(None, gt=0)
    """Against the reference, at batch 1 on one thread: median latency over the engine's."""
    teacher_score: float | None = None
    """The least score of the teacher itself, so that a broken one cannot pass."""
    hops: HopGates = HopGates()


@dataclass(frozen=True)
class Outcome:
    """One gate with its evidence."""

    gate: str
    hop: str
    against: Against
    limit: float
    measured: float | None
    """None: not run here."""
    decides: bool
    """Whether the verdict depends on it; otherwise it only shows where a promise was broken first."""

    @property
    def margin(self) -> float | None:
        """How far inside the limit; negative is outside."""
        if self.measured is None:
            return None
        return self.limit - self.measured if self.gate in AT_MOST else self.measured - self.limit

    @property
    def verdict(self) -> Decision:
        if self.margin is None:
            return "not run here"
        return "passed" if self.margin >= -ROUNDING else "failed"

    @property
    def promise(self) -> str:
        if self.gate == "sound":
            return "no NaN, no infinity, not constant"
        return f"at {'most' if self.gate in AT_MOST else 'least'} {self.limit:g}"

    @property
    def sentence(self) -> str:
        other = f" against {PREVIOUS[self.hop]}" if self.against == "previous" else ""
        name = "samples without a usable answer" if self.gate == "sound" else self.gate.replace("_", " ")
        found = "not run here" if self.measured is None else f"{self.measured:.4g}"
        return f"{self.hop}: {name}{other} {found}, promised {self.promise}"

    def facts(self) -> dict[str, Any]:
        shown = ("gate", "hop", "against", "promise", "limit", "measured", "margin", "verdict", "decides")
        return {name: getattr(self, name) for name in shown}


def outcomes(ledger: Mapping[str, Any], gates: Gates) -> list[Outcome]:
    """Every gate, in the order of the hops. Raises StageError for a promise that this task's outputs cannot show."""
    hops = {hop["hop"]: hop for hop in ledger["hops"]}
    found = [*floors(hops, gates), *soundness(hops, ledger["samples"]), *cumulative(hops, gates), *conversions(hops, gates.hops)]
    if gates.speedup is not None:
        speedup = ledger["speedup"]["reference"] if ran(hops, "engine", "reference") else None
        found.append(Outcome("speedup", "engine", "reference", gates.speedup, speedup, decides=True))
    return sorted(found, key=lambda outcome: GATED.index(outcome.hop))


def ran(hops: Mapping[str, Any], *names: str) -> bool:
    return all(hops[name]["status"] == "measured" for name in names)


def floors(hops: Mapping[str, Any], gates: Gates) -> Iterator[Outcome]:
    if gates.teacher_score is not None:
        yield Outcome("teacher_score", "teacher", "absolute", gates.teacher_score, hops["teacher"]["score"], decides=True)


def soundness(hops: Mapping[str, Any], samples: int) -> Iterator[Outcome]:
    for hop in GATED:
        unusable = (samples if hops[hop]["constant"] else hops[hop]["nonfinite"]) if ran(hops, hop) else None
        yield Outcome("sound", hop, "absolute", 0, unusable, decides=True)


def cumulative(hops: Mapping[str, Any], gates: Gates) -> Iterator[Outcome]:
    for hop in CUMULATIVE:
        for gate in ("score_drop", "correlation", "agreement", "kdl"):
            limit = getattr(gates, gate)
            if limit is not None:
                measured = evidence(hops, hop, "teacher", gate)
                yield Outcome(gate, hop, "teacher", limit, measured, decides=hop == "engine")


def conversions(hops: Mapping[str, Any], gates: HopGates) -> Iterator[Outcome]:
    for hop, before in PREVIOUS.items():
        for gate in ("largest_difference",) if hop == "onnx" else ("correlation", "score_drop"):
            measured = evidence(hops, hop, "previous", gate) if ran(hops, before) else None
            yield Outcome(gate, hop, "previous", getattr(gates, gate), measured, decides=True)


def evidence(hops: Mapping[str, Any], hop: str, against: str, gate: str) -> float | None:
    if not ran(hops, hop):
        return None
    measured: float | None = hops[hop][against][gate]
    if measured is None:
        raise StageError(f"the gate {gate!r} is about classes and this task's outputs are values; remove it from [gates]")
    return measured


def verdict(found: Sequence[Outcome]) -> dict[str, Any]:
    """``verdict``, ``first_broken``, ``margin``, ``summary`` and the ``gates``."""
    decided = overall(outcome.verdict for outcome in found if outcome.decides)
    facts = {"verdict": decided, "first_broken": None, "margin": None, "gates": [outcome.facts() for outcome in found]}
    if decided == "passed":
        return facts | {"summary": kept(found)}
    worst = [outcome for outcome in found if outcome.decides and outcome.verdict == decided]
    if decided != "failed":
        return facts | {"summary": f"{decided}: {worst[0].sentence}"}
    hop = min((located(outcome, found) for outcome in worst), key=GATED.index)
    row = reported(hop, worst, found)
    return facts | {"first_broken": hop, "margin": row.margin, "summary": f"{row.sentence} (first broken hop: {hop})"}


def overall(decisions: Iterable[Decision]) -> Decision:
    """The most severe of them."""
    made = set(decisions)
    return next((decision for decision in SEVERITY if decision in made), "passed")


def located(outcome: Outcome, found: Sequence[Outcome]) -> str:
    """The first hop that breaks the promise which the engine breaks."""
    if outcome.against != "teacher":
        return outcome.hop
    return next(o.hop for o in found if (o.gate, o.against, o.verdict) == (outcome.gate, "teacher", "failed"))


def reported(hop: str, broken: Sequence[Outcome], found: Sequence[Outcome]) -> Outcome:
    """Of the broken gates that lead to ``hop`` the one to tell: a promise of the user's before a default between hops."""
    there = [outcome for outcome in broken if located(outcome, found) == hop]
    return min(there, key=lambda outcome: outcome.against == "previous")


def kept(found: Sequence[Outcome]) -> str:
    """What was promised and is kept; and what was not promised, so that nobody takes it for proven."""
    promised = [o for o in found if o.decides and o.against != "previous" and o.gate != "sound" and o.measured is not None]
    told = ", ".join(f"{o.gate.replace('_', ' ')} {o.measured:.4g} ({o.promise})" for o in promised)
    if any(o.against == "teacher" for o in promised):
        said = f"Every promise is kept: {told}"
    else:
        said = f"Nothing was promised of the engine against the teacher; kept is {told or 'what every conversion must keep'}"
    if any(o.hop == "teacher" for o in promised):
        return said
    return f"{said}; nothing was promised of the teacher itself"


def distillation(ledger: Mapping[str, Any], gates: Gates) -> dict[str, Any] | None:
    """Whether the control, the same student without a teacher, keeps the promise too; None where that cannot be said.

    Judged on the score drop alone: a student that never saw the teacher owes it no correlation.
    """
    control = next((hop for hop in ledger["hops"] if hop["hop"] == "control"), None)
    if control is None or control["status"] != "measured" or gates.score_drop is None:
        return None
    drop = control["teacher"]["score_drop"]
    return {"needed": drop > gates.score_drop, "judged_on": "score_drop", "control": drop, "limit": gates.score_drop}

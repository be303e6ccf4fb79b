"""Gates: what is promised, and whether the ledger keeps it.

The engine is what ships, so its promises decide; the hops before it are held to the same promises only to find where a promise
was broken first. Every conversion is also held to the hop before it, and every hop must give finite answers that depend on its
input, at every size that is promised. A hop that was not run here keeps no promise; where that is the engine, the graph that
it is built from has to keep them too, for an engine cannot be better than its graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from attar.pipeline.errors import StageError
from attar.stages.proof.ledger import HOPS, PREVIOUS
from attar.stages.proof.outcome import ROUNDING, Against, Decision, Name, Outcome

GATED = ("teacher", "reference", "student", "onnx", "model", "engine")
CUMULATIVE = ("student", "onnx", "model", "engine")
ALIKE: Sequence[Name] = ("score_drop", "correlation", "cosine", "agreement", "kdl")
"""The promises of one hop against another."""
ALWAYS: Sequence[Name] = ("sound", "sizes")
"""What every hop is held to without being asked."""
UNASKED: Sequence[Name] = (*ALWAYS, "leak")
"""What is promised where nobody promises anything."""
SEVERITY: Sequence[Decision] = ("failed", "undecided", "not run here")
Hops = Mapping[str, Mapping[str, Any]]


class Promises(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HopGates(Promises):
    """What each conversion must keep of the hop before it."""

    largest_difference: float = Field(1e-3, ge=0)
    """The student's ONNX graph against the student: the same arithmetic, so only rounding may differ."""
    correlation: float = Field(0.98, ge=-1, le=1)
    """The graph with its precision baked in against the one in fp32: int8 moves each output a little."""
    same_correlation: float = Field(0.999, ge=-1, le=1)
    """The reference against the teacher and the engine against its graph: fused kernels, in the same precision."""
    kdl: float = Field(0.05, ge=0)
    """Every conversion but the student's, where there are classes: the confidence, which no correlation sees."""
    score_drop: float = 0.02
    """As ``kdl``, for all outputs; negative demands a gain. A score in other units than a share wants another limit."""


class RegressionGates(Promises):
    """What the engine must keep of the bundle in production, where it is compared with one (``--against``)."""

    score_drop: float | None = 0.01
    """The most that the engine may score below production."""
    correlation: float | None = Field(None, ge=-1, le=1)
    """The least CORR of their outputs."""
    cosine: float | None = Field(None, ge=-1, le=1)
    """The least mean cosine between both embeddings of a sample."""
    agreement: float | None = Field(None, ge=0, le=1)
    """The least share of samples on which both say the same class."""
    kdl: float | None = Field(None, ge=0)
    """The largest KL divergence of their probabilities, the mean over samples."""
    speedup: float | None = Field(0.8, gt=0)
    """Production's latency over the engine's, at batch 1 on one thread: 0.8 lets it be a quarter slower."""


class Gates(Promises):
    """Promises of the engine against the teacher on the test split; what is not set is not promised."""

    score_drop: float | None = None
    """The most that the engine may score below the teacher."""
    correlation: float | None = Field(None, ge=-1, le=1)
    """The least CORR of their outputs."""
    cosine: float | None = Field(None, ge=-1, le=1)
    """The least mean cosine between both embeddings of a sample."""
    agreement: float | None = Field(None, ge=0, le=1)
    """The least share of samples on which both say the same class."""
    kdl: float | None = Field(None, ge=0)
    """The largest KL divergence of their probabilities, the mean over samples."""
    speedup: float | None = Field(None, gt=0)
    """Against the reference, at batch 1 on one thread: the median over rounds of its latency over the engine's."""
    score: float | None = None
    """The least score of the engine, whatever the teacher's is."""
    teacher_score: float | None = None
    """The least score of the teacher itself, so that a broken one cannot pass."""
    leak: float = Field(0.01, ge=0, le=1)
    """The largest share of test samples that may be near-duplicates of training samples; see ``stages.proof.leak``."""
    hops: HopGates = HopGates()
    """Of each conversion."""
    regression: RegressionGates = RegressionGates()
    """Of the engine against the bundle in production."""


def outcomes(ledger: Mapping[str, Any], gates: Gates) -> list[Outcome]:
    """Every gate, in the order of the hops. Raises StageError for a promise that this task's outputs cannot show."""
    hops = {hop["hop"]: hop for hop in ledger["hops"]}
    found = [*floors(ledger, hops, gates), *leaks(ledger, gates.leak), *soundness(ledger, hops), *cumulative(ledger, hops, gates)]
    found += [*conversions(ledger, hops, gates.hops), *speed(ledger, hops, gates)]
    if "production" in hops:
        found += alike(ledger, hops, "engine", "production", gates.regression, decides=True)
        found += sound(ledger, hops, "production", decides=False)
    return sorted(found, key=lambda outcome: HOPS.index(outcome.hop))


def leaks(ledger: Mapping[str, Any], limit: float) -> Iterator[Outcome]:
    """Of the data, so at the first hop. None where near-duplicates were not or could not be looked for."""
    evidence = ledger.get("leak") or {"share": None}
    if evidence["share"] is not None:
        yield Outcome("leak", "teacher", "absolute", limit, evidence["share"], decides=True, note=name_pairs(evidence))


def mention_unlooked(ledger: Mapping[str, Any]) -> str:
    """Return the end of a summary that says why no near-duplicates were looked for; empty where they were."""
    why = (ledger.get("leak") or {"why": None})["why"]
    return f". Near-duplicates between test and training samples were not looked for: {why}" if why else ""


def name_pairs(evidence: Mapping[str, Any]) -> str | None:
    """Return how many there are, with examples; None where there are none."""
    pairs = [f"test {each['test']} is nearly {each['split']} {each['sample']}" for each in evidence["examples"]]
    more = ", ..." if evidence["found"] > len(pairs) else ""
    return f"{evidence['found']} of {evidence['looked_at']}: {', '.join(pairs)}{more}" if pairs else None


def ran(hops: Hops, *names: str) -> bool:
    return all(hops[name]["status"] == "measured" for name in names)


def held(hops: Hops) -> Sequence[str]:
    """The hops whose promises decide."""
    return ("engine",) if ran(hops, "engine") else ("model", "engine")


def floors(ledger: Mapping[str, Any], hops: Hops, gates: Gates) -> Iterator[Outcome]:
    """Of the teacher and of the engine, whatever they are compared with."""
    if gates.teacher_score is not None:
        yield floor("teacher_score", "teacher", gates.teacher_score, hops, ledger["samples"], decides=True)
    for hop in CUMULATIVE if gates.score is not None else ():
        yield floor("score", hop, gates.score or 0.0, hops, ledger["samples"], decides=hop in held(hops))


def floor(gate: Name, hop: str, limit: float, hops: Hops, samples: int, *, decides: bool) -> Outcome:
    if not ran(hops, hop):
        return Outcome(gate, hop, "absolute", limit, None, decides)
    low, high = hops[hop]["score_bounds"]
    return Outcome(gate, hop, "absolute", limit, hops[hop]["score"], decides, (low, high), samples)


def soundness(ledger: Mapping[str, Any], hops: Hops) -> Iterator[Outcome]:
    for hop in GATED:
        yield from sound(ledger, hops, hop, decides=True)


def sound(ledger: Mapping[str, Any], hops: Hops, hop: str, *, decides: bool) -> Iterator[Outcome]:
    if not ran(hops, hop):
        yield from (Outcome(gate, hop, "absolute", 0, None, decides) for gate in ALWAYS)
        return
    this, faults = hops[hop], hops[hop]["sizes"]["faults"]
    note = "one answer to all" if this["constant"] else "not finite" if this["nonfinite"] else None
    unusable = ledger["samples"] if this["constant"] else this["nonfinite"]
    yield Outcome("sound", hop, "absolute", 0, unusable, decides, note=note)
    yield Outcome("sizes", hop, "absolute", 0, len(faults), decides, note=faults[0] if faults else None)


def cumulative(ledger: Mapping[str, Any], hops: Hops, gates: Gates) -> Iterator[Outcome]:
    for hop in CUMULATIVE:
        yield from alike(ledger, hops, hop, "teacher", gates, decides=hop in held(hops))


def alike(
    ledger: Mapping[str, Any], hops: Hops, hop: str, against: Against, promised: Gates | RegressionGates, *, decides: bool
) -> Iterator[Outcome]:
    """What is promised of one hop against another: the answers."""
    for gate in ALIKE:
        limit = getattr(promised, gate)
        if limit is not None:
            yield compared(gate, ledger, hops, hop, against, limit, decides=decides)


def conversions(ledger: Mapping[str, Any], hops: Hops, gates: HopGates) -> Iterator[Outcome]:
    for hop in PREVIOUS:
        yield from conversion(ledger, hops, hop, gates)


def conversion(ledger: Mapping[str, Any], hops: Hops, hop: str, gates: HopGates) -> Iterator[Outcome]:
    for gate, limit in kept_by(hop, gates).items():
        shown = not ran(hops, hop, PREVIOUS[hop]) or hops[hop]["previous"][gate] is not None  # only logits have a KDL
        if shown:
            yield compared(gate, ledger, hops, hop, "previous", limit, decides=True)


def candidate(ledger: Mapping[str, Any], entry: Mapping[str, Any], gates: Gates) -> list[Outcome]:
    """What would be promised of this entry, were it the engine: its answers alone, and what its precision must keep."""
    hops = {hop["hop"]: hop for hop in (*ledger["hops"], {**entry, "hop": "model"})}
    found = [*sound(ledger, hops, "model", decides=True), *alike(ledger, hops, "model", "teacher", gates, decides=True)]
    if gates.score is not None:
        found.append(floor("score", "model", gates.score, hops, ledger["samples"], decides=True))
    return [*found, *conversion(ledger, hops, "model", gates.hops)]


def kept_by(hop: str, gates: HopGates) -> dict[Name, float]:
    """What a conversion to this hop must keep."""
    if hop == "onnx":
        return {"largest_difference": gates.largest_difference}
    correlation = gates.correlation if hop == "model" else gates.same_correlation
    return {"correlation": correlation, "kdl": gates.kdl, "score_drop": gates.score_drop}


def compared(
    gate: Name, ledger: Mapping[str, Any], hops: Hops, hop: str, against: Against, limit: float, *, decides: bool
) -> Outcome:
    """One number of a comparison of two hops."""
    other = PREVIOUS[hop] if against == "previous" else against
    if not ran(hops, hop, other):
        return Outcome(gate, hop, against, limit, None, decides)
    found = hops[hop][against]
    if found[gate] is None:
        section = "[gates.regression]" if against == "production" else "[gates]"
        about = "embeddings" if gate == "cosine" else "classes"
        raise StageError(f"the gate {gate!r} is about {about}, and no output of this task holds any; remove it from {section}")
    bounds = found["bounds"].get(gate)
    if bounds is None:
        return Outcome(gate, hop, against, limit, found[gate], decides)
    return Outcome(gate, hop, against, limit, found[gate], decides, (bounds[0], bounds[1]), ledger["samples"])


def speed(ledger: Mapping[str, Any], hops: Hops, gates: Gates) -> Iterator[Outcome]:
    limits: dict[Against, float | None] = {"reference": gates.speedup}
    if "production" in hops:
        limits["production"] = gates.regression.speedup
    for other, limit in limits.items():
        if limit is not None and not ran(hops, "engine", other):
            yield Outcome("speedup", "engine", other, limit, None, decides=True)
        elif limit is not None:
            found = ledger["speedup"]
            low, high = found["bounds"][other]
            yield Outcome("speedup", "engine", other, limit, found[other], True, (low, high), found["rounds"])


def verdict(found: Sequence[Outcome], why: str | None = None) -> dict[str, Any]:
    """``verdict``, ``first_broken``, ``margin``, ``summary`` and the ``gates``. ``why`` the engine was not run here."""
    decided = overall(outcome.verdict for outcome in found if outcome.decides)
    facts = {"verdict": decided, "first_broken": None, "margin": None, "gates": [outcome.facts() for outcome in found]}
    if decided == "passed":
        return facts | {"summary": kept(found)}
    worst = [outcome for outcome in found if outcome.decides and outcome.verdict == decided]
    if decided == "undecided":
        return facts | {"summary": f"undecided: {worst[0].sentence}; {worst[0].more}"}
    if decided != "failed":
        reason = f"the engine was not run here: {why}" if why else f"{decided}: {worst[0].sentence}"
        return facts | {"summary": f"{reason}; every gate of what was run is passed"}
    hop = min((located(outcome, found) for outcome in worst), key=GATED.index)
    row = reported(hop, worst, found)
    return facts | {"first_broken": hop, "margin": row.margin, "summary": f"{row.sentence} (first broken hop: {hop})"}


def overall(decisions: Iterable[Decision]) -> Decision:
    """The most severe of them."""
    made = set(decisions)
    return next((decision for decision in SEVERITY if decision in made), "passed")


def located(outcome: Outcome, found: Sequence[Outcome]) -> str:
    """The first hop that is measured outside the promise which the engine breaks, though it alone might be undecided."""
    same = (o for o in found if (o.gate, o.against) == (outcome.gate, outcome.against))
    return next(o.hop for o in same if o.margin is not None and o.margin < -ROUNDING)


def reported(hop: str, broken: Sequence[Outcome], found: Sequence[Outcome]) -> Outcome:
    """Of the broken gates that lead to ``hop`` the one to tell: a promise of the user's before a default between hops."""
    there = [outcome for outcome in broken if located(outcome, found) == hop]
    return min(there, key=lambda outcome: outcome.against == "previous")


def kept(found: Sequence[Outcome]) -> str:
    """What was promised and is kept; and what was not promised, so that nobody takes it for proven."""
    promised = [o for o in found if o.decides and o.against != "previous" and o.gate not in UNASKED]
    told = ", ".join(o.kept for o in promised)
    if any(o.against == "teacher" for o in promised):
        said = f"Every promise is kept: {told}"
    else:
        said = f"Nothing was promised of the engine against the teacher; kept is {told or 'what every conversion must keep'}"
    if any(o.gate == "teacher_score" for o in promised):
        return said
    return f"{said}; nothing was promised of the teacher itself"

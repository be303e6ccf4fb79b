"""Evaluation: the limits of a recipe, held against the ledger.

The engine is what ships, so its gates are required. The hops before it are held to the same limits
only to find where one was violated first. Every conversion is also compared with the hop before
it, and every hop must give finite answers that depend on its input, at every promised size. A hop
that was not run here passes no gate; if that is the engine, the gates of its graph are required
too, for an engine cannot be better than its graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attar.pipeline.core.errors import StageError
from attar.proof.bounds import ConfidenceBounds
from attar.proof.gate import Baseline, Comparison, Gate, Metric
from attar.proof.hop import CONVERSIONS, HOPS, PREVIOUS_HOP, STUDENT_HOPS, HopName
from attar.proof.limits import GateLimits, HopLimits, RegressionLimits

GATED_HOPS: Sequence[HopName] = ("teacher", "reference", "student", "onnx", "model", "engine")
SIMILARITY_METRICS: Sequence[Metric] = (
    "score_drop",
    "correlation",
    "cosine",
    "agreement",
    "kdl",
)
"""The metrics that compare the answers of two hops."""
SOUNDNESS_METRICS: Sequence[Metric] = ("sound", "sizes")
"""The metrics that every hop has a limit for, which no recipe sets."""
Hops = Mapping[str, Mapping[str, Any]]


def evaluate_gates(ledger: Mapping[str, Any], limits: GateLimits) -> list[Gate]:
    """Return every gate, in the order of the hops.

    Raises StageError for a limit that this task's outputs cannot show.
    """
    hops = index_hops(ledger)
    gates = [
        *evaluate_score_floors(ledger, hops, limits),
        *evaluate_leak(ledger, limits.leak),
        *(gate for hop in GATED_HOPS for gate in evaluate_soundness(ledger, hops, hop)),
        *evaluate_student_hops(ledger, hops, limits),
        *(
            gate
            for hop in CONVERSIONS
            for gate in evaluate_conversion(ledger, hops, hop, limits.hops)
        ),
        *evaluate_speedups(ledger, hops, limits),
    ]
    if "production" in hops:
        regression = limits.regression
        gates += evaluate_similarity(
            ledger, hops, "engine", "production", regression, required=True
        )
        gates += evaluate_soundness(ledger, hops, "production", required=False)
    return sorted(gates, key=lambda gate: HOPS.index(gate.comparison.hop))


def evaluate_control_gates(ledger: Mapping[str, Any], limits: GateLimits) -> list[Gate]:
    """Return the limits of the engine, applied to the control. Empty if none applies to it."""
    hops = index_hops(ledger)
    if "control" not in hops:
        return []
    gates = list(evaluate_similarity(ledger, hops, "control", "teacher", limits, required=False))
    if limits.score is not None:
        gates.append(evaluate_score("score", "control", limits.score, ledger, hops, required=False))
    if not gates:
        return []
    sound = evaluate_soundness(ledger, hops, "control", required=False)
    return [*gates, *(gate for gate in sound if gate.verdict == "failed")]


def evaluate_candidate_gates(
    ledger: Mapping[str, Any], candidate: Mapping[str, Any], limits: GateLimits
) -> list[Gate]:
    """Return the gates of a candidate's answers, and of its precision against the fp32 graph."""
    hops = index_hops(ledger) | {"model": candidate}
    gates = [
        *evaluate_soundness(ledger, hops, "model"),
        *evaluate_similarity(ledger, hops, "model", "teacher", limits, required=True),
    ]
    if limits.score is not None:
        gates.append(evaluate_score("score", "model", limits.score, ledger, hops, required=True))
    return [*gates, *evaluate_conversion(ledger, hops, "model", limits.hops)]


def index_hops(ledger: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {hop["hop"]: hop for hop in ledger["hops"]}


def was_run(hops: Hops, *names: str) -> bool:
    """Whether all of these hops were run on this machine."""
    return all(hops[name]["status"] == "measured" for name in names)


def list_required_hops(*, engine_was_run: bool) -> Sequence[HopName]:
    """Return the hops whose gates against the teacher are required."""
    return ("engine",) if engine_was_run else ("model", "engine")


def evaluate_leak(ledger: Mapping[str, Any], limit: float) -> Iterator[Gate]:
    """Yield the gate on the data, at the first hop, if near-duplicates were looked for."""
    leak = ledger.get("leak") or {"share": None}
    if leak["share"] is not None:
        comparison = Comparison("leak", "teacher", "absolute", leak["share"])
        yield Gate(comparison, limit, required=True, note=format_leak_examples(leak))


def format_leak_examples(leak: Mapping[str, Any]) -> str | None:
    """Return the number of near-duplicates, with examples; None if there are none."""
    pairs = [
        f"test {example['test']} is nearly {example['split']} {example['sample']}"
        for example in leak["examples"]
    ]
    more = ", ..." if leak["found"] > len(pairs) else ""
    return f"{leak['found']} of {leak['looked_at']}: {', '.join(pairs)}{more}" if pairs else None


def explain_unchecked_leak(ledger: Mapping[str, Any]) -> str:
    """Return the end of a summary that says why near-duplicates were not looked for."""
    why = (ledger.get("leak") or {"why": None})["why"]
    if not why:
        return ""
    return f". Near-duplicates between test and training samples were not looked for: {why}"


def evaluate_score_floors(
    ledger: Mapping[str, Any], hops: Hops, limits: GateLimits
) -> Iterator[Gate]:
    """Yield the gates on the scores themselves, of the teacher and of the hops from the student."""
    if limits.teacher_score is not None:
        limit = limits.teacher_score
        yield evaluate_score("teacher_score", "teacher", limit, ledger, hops, required=True)
    if limits.score is not None:
        required_hops = list_required_hops(engine_was_run=was_run(hops, "engine"))
        for hop in STUDENT_HOPS:
            required = hop in required_hops
            yield evaluate_score("score", hop, limits.score, ledger, hops, required=required)


def evaluate_score(
    metric: Metric,
    hop: HopName,
    limit: float,
    ledger: Mapping[str, Any],
    hops: Hops,
    *,
    required: bool,
) -> Gate:
    if not was_run(hops, hop):
        return Gate(Comparison(metric, hop, "absolute", None), limit, required)
    bounds = ConfidenceBounds(*hops[hop]["score_bounds"])
    score, samples = hops[hop]["score"], ledger["samples"]
    return Gate(Comparison(metric, hop, "absolute", score, bounds, samples), limit, required)


def evaluate_soundness(
    ledger: Mapping[str, Any], hops: Hops, hop: HopName, *, required: bool = True
) -> Iterator[Gate]:
    """Yield whether all answers are finite and depend on the input, and at every promised size."""
    if not was_run(hops, hop):
        for metric in SOUNDNESS_METRICS:
            yield Gate(Comparison(metric, hop, "absolute", None), 0, required)
        return
    this, faults = hops[hop], hops[hop]["sizes"]["faults"]
    note = "one answer to all" if this["constant"] else "not finite" if this["nonfinite"] else None
    unusable = ledger["samples"] if this["constant"] else this["nonfinite"]
    yield Gate(Comparison("sound", hop, "absolute", unusable), 0, required, note)
    fault = faults[0] if faults else None
    yield Gate(Comparison("sizes", hop, "absolute", len(faults)), 0, required, fault)


def evaluate_student_hops(
    ledger: Mapping[str, Any], hops: Hops, limits: GateLimits
) -> Iterator[Gate]:
    """Yield the gates of every hop from the student on against the teacher."""
    required_hops = list_required_hops(engine_was_run=was_run(hops, "engine"))
    for hop in STUDENT_HOPS:
        required = hop in required_hops
        yield from evaluate_similarity(ledger, hops, hop, "teacher", limits, required=required)


def evaluate_similarity(
    ledger: Mapping[str, Any],
    hops: Hops,
    hop: HopName,
    baseline: Baseline,
    limits: GateLimits | RegressionLimits,
    *,
    required: bool,
) -> Iterator[Gate]:
    """Yield the gates that compare the answers of two hops."""
    for metric in SIMILARITY_METRICS:
        limit = getattr(limits, metric)
        if limit is not None:
            comparison = compare_hops(metric, ledger, hops, hop, baseline)
            yield Gate(comparison, limit, required)


def evaluate_conversion(
    ledger: Mapping[str, Any], hops: Hops, hop: HopName, limits: HopLimits
) -> Iterator[Gate]:
    """Yield the gates of a conversion against the hop that it was made from."""
    for metric, limit in select_conversion_limits(hop, limits).items():
        is_run = was_run(hops, hop, PREVIOUS_HOP[hop])
        if is_run and hops[hop]["previous"][metric] is None:
            continue  # only logits have a KDL
        comparison = compare_hops(metric, ledger, hops, hop, "previous")
        yield Gate(comparison, limit, required=True)


def select_conversion_limits(hop: HopName, limits: HopLimits) -> dict[Metric, float]:
    """Return what the conversion to this hop must keep."""
    if hop == "onnx":
        return {"largest_difference": limits.largest_difference}
    correlation = limits.correlation if hop == "model" else limits.same_correlation
    return {"correlation": correlation, "kdl": limits.kdl, "score_drop": limits.score_drop}


def compare_hops(
    metric: Metric, ledger: Mapping[str, Any], hops: Hops, hop: HopName, baseline: Baseline
) -> Comparison:
    """Return one metric of two hops. Raises StageError if their outputs do not have it."""
    other = PREVIOUS_HOP[hop] if baseline == "previous" else baseline
    if not was_run(hops, hop, other):
        return Comparison(metric, hop, baseline, None)
    compared = hops[hop][baseline]
    value = compared[metric]
    if value is None:
        section = "[gates.regression]" if baseline == "production" else "[gates]"
        subject = "embeddings" if metric == "cosine" else "classes"
        raise StageError(
            f"the gate {metric!r} is about {subject}, and no output of this task holds any; "
            f"remove it from {section}"
        )
    bounds = compared["bounds"].get(metric)
    if bounds is None:
        return Comparison(metric, hop, baseline, value)
    return Comparison(metric, hop, baseline, value, ConfidenceBounds(*bounds), ledger["samples"])


def evaluate_speedups(ledger: Mapping[str, Any], hops: Hops, limits: GateLimits) -> Iterator[Gate]:
    baselines: dict[Baseline, float | None] = {"reference": limits.speedup}
    if "production" in hops:
        baselines["production"] = limits.regression.speedup
    for baseline, limit in baselines.items():
        if limit is not None:
            yield Gate(compare_speed(ledger, hops, baseline), limit, required=True)


def compare_speed(ledger: Mapping[str, Any], hops: Hops, baseline: Baseline) -> Comparison:
    """Return how many times as fast as a baseline the engine is."""
    if not was_run(hops, "engine", baseline):
        return Comparison("speedup", "engine", baseline, None)
    speedup = ledger["speedup"]
    bounds = ConfidenceBounds(*speedup["bounds"][baseline])
    ratio, rounds = speedup[baseline], speedup["rounds"]
    return Comparison("speedup", "engine", baseline, ratio, bounds, rounds)

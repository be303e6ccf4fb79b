"""Evaluation: the limits of a recipe, held against the ledger.

The engine is what ships, so its gates are required. The hops before it are held to the same limits
only to find where one was violated first. Every conversion is also compared with the hop before
it, and every hop must give finite answers that depend on its input, at every promised size. A hop
that was not run here passes no gate; if that is the engine, the gates of its graph are required
too, for an engine cannot be better than its graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from attar.pipeline.core.errors import StageError
from attar.proof.gate import Baseline, Comparison, Gate, Metric
from attar.proof.hop import CONVERSIONS, HOPS, PREVIOUS_HOP, STUDENT_HOPS, HopName
from attar.proof.ledger.ledger import Hop, LeakCheck, Ledger
from attar.proof.verdicts.limits import GateLimits, HopLimits, RegressionLimits

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
LOCATING_METRICS: Sequence[Metric] = ("score", "endless")
"""The limits of the engine itself: of the hops before it they only locate a failure."""
LOOP_METRIC: Metric = "loop"
"""The same of every hop that has a graph of the loop over tokens."""


def evaluate_gates(ledger: Ledger, limits: GateLimits) -> list[Gate]:
    """Return every gate, in the order of the hops.

    Raises StageError for a limit that this task's outputs cannot show.
    """
    gates = [
        *evaluate_score_floors(ledger, limits),
        *evaluate_leak(ledger.leak, limits.leak),
        *evaluate_all_soundness(ledger),
        *evaluate_student_hops(ledger, limits),
        *evaluate_endless(ledger, limits.endless),
        *evaluate_all_conversions(ledger, limits.hops),
        *evaluate_speedups(ledger, limits),
    ]
    if "production" in ledger.hops:
        regression = limits.regression
        gates += evaluate_similarity(ledger, "engine", "production", regression, required=True)
        gates += evaluate_soundness(ledger, "production", required=False)
    return sorted(gates, key=lambda gate: HOPS.index(gate.comparison.hop))


def evaluate_control_gates(ledger: Ledger, limits: GateLimits) -> list[Gate]:
    """Return the limits of the engine, applied to the control. Empty if none applies to it."""
    if "control" not in ledger.hops:
        return []
    gates = list(evaluate_similarity(ledger, "control", "teacher", limits, required=False))
    if limits.score is not None:
        gates.append(evaluate_score(ledger, "score", "control", limits.score, required=False))
    if limits.endless is not None:
        control = ledger.hops["control"]
        gates.append(evaluate_endless_share(control, limits.endless, required=False))
    if not gates:
        return []
    sound = evaluate_soundness(ledger, "control", required=False)
    return [*gates, *(gate for gate in sound if gate.verdict == "failed")]


def evaluate_candidate_gates(ledger: Ledger, candidate: Hop, limits: GateLimits) -> list[Gate]:
    """Return the gates of a candidate's answers, and of its precision against the fp32 graph."""
    ledger = replace(ledger, hops={**ledger.hops, "model": candidate})
    gates = [
        *evaluate_soundness(ledger, "model"),
        *evaluate_similarity(ledger, "model", "teacher", limits, required=True),
    ]
    if limits.score is not None:
        gates.append(evaluate_score(ledger, "score", "model", limits.score, required=True))
    if limits.endless is not None:
        gates.append(evaluate_endless_share(candidate, limits.endless, required=True))
    return [*gates, *evaluate_conversion(ledger, "model", limits.hops)]


def list_required_hops(*, engine_was_run: bool) -> Sequence[HopName]:
    """Return the hops whose gates against the teacher are required."""
    return ("engine",) if engine_was_run else ("model", "engine")


def evaluate_leak(leak: LeakCheck | None, limit: float) -> Iterator[Gate]:
    """Yield the gate on the data, at the first hop, if near-duplicates were looked for."""
    if leak is not None and leak.share is not None:
        comparison = Comparison("leak", "teacher", "absolute", leak.share)
        yield Gate(comparison, limit, required=True, note=format_leak_examples(leak))


def format_leak_examples(leak: LeakCheck) -> str | None:
    """Return the number of near-duplicates, with examples; None if there are none."""
    pairs = [
        f"test {example.test} is nearly {example.split} {example.sample}"
        for example in leak.examples
    ]
    more = ", ..." if leak.count > len(pairs) else ""
    return f"{leak.count} of {leak.looked_at}: {', '.join(pairs)}{more}" if pairs else None


def evaluate_score_floors(ledger: Ledger, limits: GateLimits) -> Iterator[Gate]:
    """Yield the gates on the scores themselves, of the teacher and of the hops from the student."""
    if limits.teacher_score is not None:
        limit = limits.teacher_score
        yield evaluate_score(ledger, "teacher_score", "teacher", limit, required=True)
    if limits.score is not None:
        required_hops = list_required_hops(engine_was_run=ledger.was_run("engine"))
        for hop in STUDENT_HOPS:
            required = hop in required_hops
            yield evaluate_score(ledger, "score", hop, limits.score, required=required)


def evaluate_score(
    ledger: Ledger, metric: Metric, hop: HopName, limit: float, *, required: bool
) -> Gate:
    score = ledger.hops[hop].score or Comparison(metric, hop, "absolute", None)
    return Gate(replace(score, metric=metric), limit, required)


def select_made(hops: Sequence[HopName], *, has_reference: bool) -> list[HopName]:
    """Return these hops, without the reference of a teacher that has none."""
    return [hop for hop in hops if hop != "reference" or has_reference]


def evaluate_all_soundness(ledger: Ledger) -> Iterator[Gate]:
    for hop in select_made(GATED_HOPS, has_reference=not ledger.why_opaque):
        yield from evaluate_soundness(ledger, hop)


def evaluate_soundness(ledger: Ledger, name: HopName, *, required: bool = True) -> Iterator[Gate]:
    """Yield whether all answers are finite and depend on the input, and at every promised size.

    Raises StageError if a hop that was run was not looked at.
    """
    hop = ledger.hops[name]
    if not hop.was_run:
        for metric in SOUNDNESS_METRICS:
            yield Gate(Comparison(metric, name, "absolute", None), 0, required)
        return
    unusable, note = count_unusable_samples(hop, ledger.samples)
    yield Gate(Comparison("sound", name, "absolute", unusable), 0, required, note)
    if hop.loop_faults is not None:
        yield Gate(Comparison(LOOP_METRIC, name, "absolute", hop.loop_faults), 0, required)
    if hop.sizes is None:
        raise StageError(f"the evidence says nothing of sizes of the {name}; measure again")
    faults = hop.sizes.faults
    fault = faults[0] if faults else None
    yield Gate(Comparison("sizes", name, "absolute", len(faults)), 0, required, fault)


def count_unusable_samples(hop: Hop, samples: int) -> tuple[int, str | None]:
    """Return how many samples have no usable answer, and why."""
    if hop.is_constant:
        return samples, "one answer to all"
    return hop.nonfinite_samples, "not finite" if hop.nonfinite_samples else None


def evaluate_student_hops(ledger: Ledger, limits: GateLimits) -> Iterator[Gate]:
    """Yield the gates of every hop from the student on against the teacher."""
    required_hops = list_required_hops(engine_was_run=ledger.was_run("engine"))
    for hop in STUDENT_HOPS:
        required = hop in required_hops
        yield from evaluate_similarity(ledger, hop, "teacher", limits, required=required)


def evaluate_endless(ledger: Ledger, limit: float | None) -> Iterator[Gate]:
    """Yield the limit of sequences without an end, for every hop from the student on.

    Raises StageError if no output holds tokens.
    """
    if limit is None:
        return
    required_hops = list_required_hops(engine_was_run=ledger.was_run("engine"))
    for name in STUDENT_HOPS:
        yield evaluate_endless_share(ledger.hops[name], limit, required=name in required_hops)


def evaluate_endless_share(hop: Hop, limit: float, *, required: bool) -> Gate:
    """Return the limit of sequences without an end, for one hop.

    Raises StageError if no output holds tokens.
    """
    if hop.was_run and hop.endless_share is None:
        raise StageError(
            "the gate 'endless' is about tokens, and no output of this task holds any; remove "
            "it from [gates]"
        )
    return Gate(Comparison("endless", hop.name, "absolute", hop.endless_share), limit, required)


def evaluate_similarity(
    ledger: Ledger,
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
            yield Gate(compare_hops(ledger, metric, hop, baseline), limit, required)


def evaluate_all_conversions(ledger: Ledger, limits: HopLimits) -> Iterator[Gate]:
    for hop in select_made(CONVERSIONS, has_reference=not ledger.why_opaque):
        yield from evaluate_conversion(ledger, hop, limits)


def evaluate_conversion(ledger: Ledger, hop: HopName, limits: HopLimits) -> Iterator[Gate]:
    """Yield the gates of a conversion against the hop that it was made from."""
    is_run = ledger.was_run(hop, PREVIOUS_HOP[hop])
    for metric, limit in select_conversion_limits(hop, limits).items():
        if is_run and ("previous", metric) not in ledger.hops[hop].comparisons:
            continue  # only logits have a KDL, and one token at a place has no correlation
        yield Gate(compare_hops(ledger, metric, hop, "previous"), limit, required=True)


def select_conversion_limits(hop: HopName, limits: HopLimits) -> dict[Metric, float]:
    """Return what the conversion to this hop must keep."""
    if hop == "onnx":
        return {"largest_difference": limits.largest_difference}
    correlation = limits.correlation if hop == "model" else limits.same_correlation
    return {"correlation": correlation, "kdl": limits.kdl, "score_drop": limits.score_drop}


def compare_hops(ledger: Ledger, metric: Metric, hop: HopName, baseline: Baseline) -> Comparison:
    """Return one metric of two hops. Raises StageError if their outputs do not have it."""
    other = PREVIOUS_HOP[hop] if baseline == "previous" else baseline
    if not ledger.was_run(hop, other):
        return Comparison(metric, hop, baseline, None)
    comparison = ledger.hops[hop].comparisons.get((baseline, metric))
    if comparison is None:
        section = "[gates.regression]" if baseline == "production" else "[gates]"
        if ledger.why_opaque and metric in ("correlation", "kdl"):
            raise StageError(
                f"the gate {metric!r} is about the teacher's probabilities, and it was not "
                f"measured: {ledger.why_opaque}; remove it from {section}, and promise agreement "
                "or score_drop"
            )
        subject = "embeddings" if metric == "cosine" else "classes"
        raise StageError(
            f"the gate {metric!r} is about {subject}, and no output of this task holds any; "
            f"remove it from {section}"
        )
    return comparison


def evaluate_speedups(ledger: Ledger, limits: GateLimits) -> Iterator[Gate]:
    baselines: dict[Baseline, float | None] = {"reference": limits.speedup}
    if "production" in ledger.hops:
        baselines["production"] = limits.regression.speedup
    if ledger.why_opaque and limits.speedup is not None:
        raise StageError(
            "the gate 'speedup' compares with the reference, the teacher's graph, and there is "
            f"none: {ledger.why_opaque}; remove it from [gates]"
        )
    for baseline, limit in baselines.items():
        if limit is not None:
            own_batch = f"at batch {ledger.speed_batch}" if ledger.speed_batch != 1 else None
            note = explain_untimed(ledger, baseline) or own_batch
            yield Gate(compare_speed(ledger, baseline), limit, required=True, note=note)


def compare_speed(ledger: Ledger, baseline: Baseline) -> Comparison:
    """Return how many times as fast as a baseline the engine is.

    There is no value if one was not run or timed here, or if the reference was timed on another
    device.
    """
    if not ledger.was_run("engine", baseline) or explain_untimed(ledger, baseline):
        return Comparison("speedup", "engine", baseline, None)
    return ledger.speedups[baseline]


def explain_untimed(ledger: Ledger, baseline: Baseline) -> str | None:
    """Return why the latencies cannot be compared, or None."""
    engine, other = ledger.hops["engine"], ledger.hops[baseline]
    if not (engine.was_run and other.was_run):
        return None
    if baseline == "production" and baseline not in ledger.speedups:
        return f"the engine in production was not timed: {other.why_not_run or 'not run here'}"
    if baseline == "production" or engine.device == other.device:
        return None
    return (
        f"it was timed on {engine.device}, the {baseline} on {other.device}: for an engine on a "
        "GPU install onnxruntime-gpu in place of onnxruntime, and leave --device cpu out"
    )

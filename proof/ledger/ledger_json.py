"""The JSON of a ledger: in the facts of evidence and of candidates, and in manifests.

It is written and read here alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter

from attar.proof.estimates.bounds import ConfidenceBounds, Estimate
from attar.proof.gate import EXACT_METRICS, Baseline, Comparison, Metric
from attar.proof.hop import PREVIOUS_HOP, HopName
from attar.proof.ledger.ledger import (
    BASELINES,
    COMPARED_METRICS,
    ClassDrop,
    Hop,
    LatencySummary,
    LeakCheck,
    Ledger,
    SizesCheck,
    TimingConditions,
)

T = TypeVar("T")
ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def get_adapter(kind: type) -> TypeAdapter[Any]:
    """Return the adapter of a dataclass, which is built when it is needed first."""
    if kind not in ADAPTERS:
        ADAPTERS[kind] = TypeAdapter(kind)
    return ADAPTERS[kind]


def to_json(value: object) -> Any:
    """Return the JSON of a dataclass; its fields, or their aliases, are the keys."""
    if value is None:
        return None
    return get_adapter(type(value)).dump_python(value, mode="json", by_alias=True)


def from_json(kind: type[T], facts: Any) -> T | None:
    value: T | None = None if facts is None else get_adapter(kind).validate_python(facts)
    return value


def ledger_to_json(ledger: Ledger) -> dict[str, Any]:
    scores = {name: hop.get_score() for name, hop in ledger.hops.items()}
    gain = ledger.gain
    return {
        **conditions_to_json(ledger),
        "classes": list(ledger.classes),
        "kinds": dict(ledger.kinds),
        "leak": to_json(ledger.leak),
        "hops": [hop_to_json(hop) for hop in ledger.hops.values()],
        "oacc": scores["teacher"],
        "control": scores.get("control"),
        "gain": gain and {"score": gain.value, "bounds": list(gain.bounds)},
        "speedup": speedups_to_json(ledger.speedups),
        "speed_batch": ledger.speed_batch,
    }


def conditions_to_json(ledger: Ledger) -> dict[str, Any]:
    """Return what a ledger and the measurements of candidates share: what was asked, and how."""
    return {
        "task": ledger.task,
        "split": ledger.split,
        "samples": ledger.samples,
        "score_name": ledger.score_name,
        "batch": ledger.batch,
        "timing": to_json(ledger.timing),
        "machine": dict(ledger.machine),
        **({} if ledger.why_opaque is None else {"opaque": ledger.why_opaque}),
    }


def ledger_from_json(facts: Mapping[str, Any]) -> Ledger:
    hops = [hop_from_json(row, row["hop"], facts["samples"]) for row in facts["hops"]]
    gain = facts.get("gain")
    return Ledger(
        hops={hop.name: hop for hop in hops},
        samples=facts["samples"],
        score_name=facts["score_name"],
        task=facts.get("task", ""),
        split=facts.get("split", "test"),
        batch=facts.get("batch", 1),
        classes=tuple(facts.get("classes", ())),
        kinds=facts.get("kinds", {}),
        speedups=speedups_from_json(facts.get("speedup") or {"bounds": {}}),
        speed_batch=facts.get("speed_batch", 1),
        gain=None if gain is None else Estimate(gain["score"], ConfidenceBounds(*gain["bounds"])),
        leak=from_json(LeakCheck, facts.get("leak")),
        why_opaque=facts.get("opaque"),
        timing=from_json(TimingConditions, facts.get("timing")),
        machine=facts.get("machine") or {},
    )


def hop_to_json(hop: Hop) -> dict[str, Any]:
    row: dict[str, Any] = {
        "hop": hop.name,
        "format": hop.format,
        "precision": hop.precision,
        "status": "measured" if hop.was_run else "not run here",
        "why": hop.why_not_run,
    }
    if not hop.was_run:
        return row
    return {
        **row,
        "parameters": hop.parameters,
        "bytes": hop.size_bytes,
        "memory": hop.memory_bytes,
        "sizes": to_json(hop.sizes),
        "latency": {str(batch): to_json(summary) for batch, summary in hop.latencies.items()},
        **({} if hop.device == "cpu" else {"device": hop.device}),
        **answers_to_json(hop),
    }


def answers_to_json(hop: Hop) -> dict[str, Any]:
    """Return what a hop answered, and how that compares with its baselines."""
    score = hop.score
    bounds = None if score is None or score.bounds is None else list(score.bounds)
    subsets = {
        name: {"score": each.value, "bounds": list(each.bounds or ()), "samples": each.sample_size}
        for name, each in hop.subset_scores.items()
    }
    compared: dict[str, Any] = {
        name: baseline_to_json(hop, name) for name in BASELINES if hop.has_baseline(name)
    }
    return {
        "score": hop.get_score(),
        "score_bounds": bounds,
        **({"subsets": subsets} if subsets else {}),
        "nonfinite": hop.nonfinite_samples,
        "constant": hop.is_constant,
        **({} if hop.endless_share is None else {"endless": hop.endless_share}),
        **({} if hop.loop_faults is None else {"loop": hop.loop_faults}),
        "previous": None,
        **compared,
    }


def baseline_to_json(hop: Hop, baseline: Baseline) -> dict[str, Any]:
    bounds = {
        metric: hop.get_bounds(baseline, metric)
        for metric in COMPARED_METRICS
        if metric not in EXACT_METRICS
    }
    worst = hop.worst_classes.get(baseline)
    return {
        "hop": hop.comparisons[baseline, "score_drop"].baseline_name,
        **{metric: hop.get_value(baseline, metric) for metric in COMPARED_METRICS},
        "worst_class": None if worst is None else {"class": worst.name, "drop": worst.drop},
        "bounds": {metric: None if ends is None else list(ends) for metric, ends in bounds.items()},
    }


def hop_from_json(row: Mapping[str, Any], name: HopName, samples: int) -> Hop:
    model = {"format": row.get("format", ""), "precision": row.get("precision", "")}
    if row["status"] != "measured":
        return Hop(name, was_run=False, why_not_run=row.get("why"), **model)
    score_bounds = ConfidenceBounds(*row["score_bounds"])
    latencies = row.get("latency", {})
    return Hop(
        name,
        why_not_run=row.get("why"),
        **model,
        parameters=row.get("parameters"),
        size_bytes=row.get("bytes"),
        memory_bytes=row.get("memory"),
        score=Comparison("score", name, "absolute", row["score"], score_bounds, samples),
        subset_scores={
            subset: Comparison(
                "score",
                name,
                "absolute",
                each["score"],
                ConfidenceBounds(*each["bounds"]),
                each["samples"],
            )
            for subset, each in row.get("subsets", {}).items()
        },
        comparisons=comparisons_from_json(row, name, samples),
        worst_classes=worst_classes_from_json(row),
        nonfinite_samples=row["nonfinite"],
        is_constant=row["constant"],
        endless_share=row.get("endless"),
        loop_faults=row.get("loop"),
        sizes=from_json(SizesCheck, row.get("sizes")),
        latencies={int(batch): LatencySummary(**each) for batch, each in latencies.items()},
        device=row.get("device", "cpu"),
    )


def comparisons_from_json(
    row: Mapping[str, Any], name: HopName, samples: int
) -> dict[tuple[Baseline, Metric], Comparison]:
    comparisons: dict[tuple[Baseline, Metric], Comparison] = {}
    for baseline in BASELINES:
        columns = row.get(baseline)
        if not columns or (baseline == "previous" and name not in PREVIOUS_HOP):
            continue
        for metric in COMPARED_METRICS:
            value = columns.get(metric)
            if value is None:
                continue
            if metric in EXACT_METRICS:
                comparison = Comparison(metric, name, baseline, value)
            else:
                bounds = ConfidenceBounds(*columns["bounds"][metric])
                comparison = Comparison(metric, name, baseline, value, bounds, samples)
            comparisons[baseline, metric] = comparison
    return comparisons


def worst_classes_from_json(row: Mapping[str, Any]) -> dict[Baseline, ClassDrop]:
    rows = {baseline: (row.get(baseline) or {}).get("worst_class") for baseline in BASELINES}
    return {name: ClassDrop(worst["class"], worst["drop"]) for name, worst in rows.items() if worst}


def speedups_to_json(speedups: Mapping[Baseline, Comparison]) -> dict[str, Any]:
    rounds = [comparison.sample_size for comparison in speedups.values()]
    return {
        **{baseline: comparison.value for baseline, comparison in speedups.items()},
        "bounds": {name: list(each.bounds or ()) for name, each in speedups.items()},
        "rounds": rounds[0] if rounds else 0,
    }


def speedups_from_json(facts: Mapping[str, Any]) -> dict[Baseline, Comparison]:
    return {
        baseline: Comparison(
            "speedup",
            "engine",
            baseline,
            facts[baseline],
            ConfidenceBounds(*bounds),
            facts["rounds"],
        )
        for baseline, bounds in facts["bounds"].items()
    }

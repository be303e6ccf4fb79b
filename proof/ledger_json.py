"""The ledger of ``Measure`` and of the candidates, read from its facts as typed hops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attar.proof.bounds import ConfidenceBounds
from attar.proof.gate import EXACT_METRICS, Baseline, Comparison, Metric
from attar.proof.hop import PREVIOUS_HOP, HopName

COMPARED_METRICS: tuple[Metric, ...] = (
    "score_drop",
    "correlation",
    "cosine",
    "agreement",
    "kdl",
    "largest_difference",
)
BASELINES: tuple[Baseline, ...] = ("teacher", "previous", "production")


@dataclass(frozen=True)
class Hop:
    """One form of the network, and what was measured of it."""

    name: HopName
    was_run: bool
    score: Comparison | None = None
    """Its score, without a baseline."""
    comparisons: Mapping[tuple[Baseline, Metric], Comparison] = field(default_factory=dict)
    """Without the metrics that its outputs do not have."""
    nonfinite_samples: int = 0
    """Samples with an answer that is not finite."""
    is_constant: bool = False
    """Whether it gives one answer to all samples."""
    size_faults: tuple[str, ...] = ()
    """What is wrong at each promised size without a sound answer."""


@dataclass(frozen=True)
class Ledger:
    """All hops, measured on the same samples."""

    hops: Mapping[str, Hop]
    samples: int
    score_name: str
    speedups: Mapping[Baseline, Comparison]
    """How many times as fast as each baseline the engine is; empty if it was not run."""
    gain: float | None
    """The student's score minus the control's; None without a control."""
    gain_bounds: ConfidenceBounds | None
    leak: Mapping[str, Any] | None
    """See ``proof.leak``; None in evidence from before there was such a gate."""

    def was_run(self, *names: str) -> bool:
        """Whether all of these hops were run on this machine."""
        return all(self.hops[name].was_run for name in names)


def ledger_from_json(facts: Mapping[str, Any]) -> Ledger:
    hops = [hop_from_json(row, row["hop"], facts["samples"]) for row in facts["hops"]]
    gain = facts.get("gain")
    return Ledger(
        hops={hop.name: hop for hop in hops},
        samples=facts["samples"],
        score_name=facts["score_name"],
        speedups=speedups_from_json(facts.get("speedup") or {"bounds": {}}),
        gain=None if gain is None else gain["score"],
        gain_bounds=None if gain is None else ConfidenceBounds(*gain["bounds"]),
        leak=facts.get("leak"),
    )


def hop_from_json(row: Mapping[str, Any], name: HopName, samples: int) -> Hop:
    if row["status"] != "measured":
        return Hop(name, was_run=False)
    score_bounds = ConfidenceBounds(*row["score_bounds"])
    return Hop(
        name,
        was_run=True,
        score=Comparison("score", name, "absolute", row["score"], score_bounds, samples),
        comparisons=comparisons_from_json(row, name, samples),
        nonfinite_samples=row["nonfinite"],
        is_constant=row["constant"],
        size_faults=tuple(row["sizes"]["faults"]) if "sizes" in row else (),
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
            value = columns[metric]
            if value is None:
                continue
            if metric in EXACT_METRICS:
                comparison = Comparison(metric, name, baseline, value)
            else:
                bounds = ConfidenceBounds(*columns["bounds"][metric])
                comparison = Comparison(metric, name, baseline, value, bounds, samples)
            comparisons[baseline, metric] = comparison
    return comparisons


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

"""The engine against the bundle in production, on the same samples and in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attar.proof.gate import Comparison, Metric
from attar.proof.report import gate_formatting
from attar.proof.report.target import Target

NAMES: Mapping[Metric, str] = {
    "score_drop": "score drop",
    "correlation": "CORR",
    "cosine": "cosine",
    "agreement": "agreement",
    "kdl": "KDL",
    "speedup": "speedup",
}
"""The metrics that are shown, in this order."""


@dataclass(frozen=True)
class ProductionMetric:
    """One thing that the engine has more or less of than the bundle in production."""

    name: str
    value: str
    between: str
    """Its one-sided 95 % bounds."""
    verdict: str
    """Of the gate about it; empty where nothing is promised."""

    @property
    def shown(self) -> str:
        return f"{self.value} ({self.between})" if self.between else self.value


def list_production_metrics(target: Target) -> list[ProductionMetric]:
    """Return nothing if no bundle in production was compared with."""
    engine, ledger = target.find_hop("engine"), target.ledger
    if engine is None or ledger is None or not engine.has_baseline("production"):
        return []
    comparisons = {
        **{metric: engine.comparisons.get(("production", metric)) for metric in NAMES},
        "speedup": ledger.speedups.get("production"),
    }
    return [
        build_production_metric(target, comparison)
        for comparison in comparisons.values()
        if comparison is not None
    ]


def build_production_metric(target: Target, comparison: Comparison) -> ProductionMetric:
    return ProductionMetric(
        NAMES[comparison.metric],
        gate_formatting.format_value(comparison),
        gate_formatting.format_bounds(comparison),
        target.find_verdict("engine", comparison.metric, "production"),
    )

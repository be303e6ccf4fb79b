"""The engine against the bundle in production, on the same samples and in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping

from attar.proof.gate import Comparison, Metric
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


def list_production_comparisons(target: Target) -> list[Comparison]:
    """Return nothing if no bundle in production was compared with."""
    engine, ledger = target.find_hop("engine"), target.ledger
    if engine is None or ledger is None or not engine.has_baseline("production"):
        return []
    speedup = ledger.speedups.get("production")
    comparisons = [engine.comparisons.get(("production", metric)) for metric in NAMES]
    return [comparison for comparison in (*comparisons, speedup) if comparison is not None]

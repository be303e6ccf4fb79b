"""The engine against the bundle in production, on the same samples and in the same rounds of timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.proof.report import formatting
from attar.proof.report.target import Target, read_bounds, read_metric, read_number


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
    """Nothing where no bundle in production was compared with."""
    if target.production is None:
        return []
    engine = target.hop("engine")
    names = {
        "score_drop": "score drop",
        "correlation": "CORR",
        "cosine": "cosine",
        "agreement": "agreement",
    }
    made = [
        build_production_metric(
            target,
            gate,
            name,
            read_metric(engine, "production", gate),
            read_bounds(engine, "production", gate),
        )
        for gate, name in names.items()
    ]
    made.append(
        build_production_metric(
            target,
            "kdl",
            "KDL",
            read_metric(engine, "production", "kdl"),
            read_bounds(engine, "production", "kdl"),
            formatting.format_small,
        )
    )
    speed = target.evidence["speedup"]
    made.append(
        build_production_metric(
            target,
            "speedup",
            "speedup",
            read_number(speed, "production"),
            speed["bounds"]["production"],
            formatting.format_ratio,
        )
    )
    return [one for one in made if one.value != formatting.DASH]


def build_production_metric(
    target: Target,
    gate: str,
    name: str,
    value: float | None,
    between: Sequence[float] | None,
    say: Callable[[float | None], str] = formatting.format_score,
) -> ProductionMetric:
    return ProductionMetric(
        name,
        say(value),
        formatting.format_range(between, say),
        target.find_verdict("engine", gate, "production"),
    )

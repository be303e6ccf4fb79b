"""Descriptions: the row of a variant, from what is known of it so far."""

from __future__ import annotations

from dataclasses import replace

from attar.proof.ledger.speeds import EngineSpeed
from attar.search.result import VariantResult
from attar.search.speeds import VariantSpeeds
from attar.search.trial import CandidateOutcome


def describe(
    speeds: VariantSpeeds, status: str, reason: str, engine: EngineSpeed | None = None
) -> VariantResult:
    """Return what is known of a variant before its training."""
    variant = speeds.variant
    result = VariantResult(variant.name, variant.title, variant.settings, status, reason)  # type: ignore[arg-type]  # one of Status
    fastest = engine or (speeds.best and speeds.best[1])
    if not fastest:
        return result
    return replace(
        result,
        p50=fastest.p50[speeds.batch],
        speedup=fastest.speedup,
        bounds=fastest.bounds,
        size_bytes=fastest.size_bytes,
    )


def describe_trained(
    speeds: VariantSpeeds, candidate: CandidateOutcome, epochs: int, limit: float | None
) -> VariantResult:
    """Return what is known of a trained variant with this engine. ``limit`` is the promised
    speedup, which it breaks if its upper bound is below."""
    engine = speeds.engines[candidate.name]
    broken, shortfall = candidate.broken, candidate.shortfall
    if limit is not None and engine.bounds and engine.bounds.high < limit:
        broken = (*broken, describe_slowness(engine, limit))
        shortfall = max(shortfall, (limit - engine.speedup) / limit)
    reason = "; ".join(broken) or "keeps all promises on validation"
    return replace(
        describe(speeds, "broke" if broken else "kept", reason, engine),
        engine=candidate.title,
        epochs=epochs,
        score=candidate.score,
        correlation=candidate.correlation,
        agreement=candidate.agreement,
        size_bytes=candidate.size_bytes,
        shortfall=shortfall,
        broken=broken,
    )


def describe_slowness(engine: EngineSpeed, limit: float) -> str:
    return f"speedup {engine.speedup:.3g}, promised at least {limit:g}"

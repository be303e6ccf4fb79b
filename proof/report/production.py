"""The engine against the bundle in production, on the same samples and in the same rounds of timing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.proof.report import words
from attar.proof.report.target import Target, against, bounds, number


@dataclass(frozen=True)
class Compared:
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


def production(target: Target) -> list[Compared]:
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
        compared(
            target,
            gate,
            name,
            against(engine, "production", gate),
            bounds(engine, "production", gate),
        )
        for gate, name in names.items()
    ]
    made.append(
        compared(
            target,
            "kdl",
            "KDL",
            against(engine, "production", "kdl"),
            bounds(engine, "production", "kdl"),
            words.small,
        )
    )
    speed = target.evidence["speedup"]
    made.append(
        compared(
            target,
            "speedup",
            "speedup",
            number(speed, "production"),
            speed["bounds"]["production"],
            words.times,
        )
    )
    return [one for one in made if one.value != words.DASH]


def compared(
    target: Target,
    gate: str,
    name: str,
    value: float | None,
    between: Sequence[float] | None,
    say: Callable[[float | None], str] = words.score,
) -> Compared:
    return Compared(
        name,
        say(value),
        words.span(between, say),
        target.find_verdict("engine", gate, "production"),
    )

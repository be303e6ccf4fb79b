"""Judgement: the verdict inside a bundle, which has to follow from the gates that stand beside it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from attar.bundle.fitness import AGAIN
from attar.bundle.part import Part
from attar.pipeline.core.errors import InvalidBundleError
from attar.proof.gates import ALWAYS, GATED, overall
from attar.proof.ledger import PREVIOUS
from attar.proof.outcome import EXACT, Against, Decision, Name, Outcome


class Gate(Part):
    """One promise and what was measured, as ``judge`` found it."""

    gate: Name
    hop: Literal["teacher", "reference", "student", "onnx", "model", "production", "engine"]
    against: Against
    promise: str
    limit: float
    measured: float | None
    bounds: Annotated[Sequence[float], Field(min_length=2, max_length=2)] | None
    samples: int | None = Field(ge=1)
    margin: float | None
    verdict: Decision
    decides: bool
    note: str | None
    would_decide: str | None

    @model_validator(mode="after")
    def _has_a_hop_before(self) -> Gate:
        if self.against == "previous" and self.hop not in PREVIOUS:
            raise ValueError(f"the {self.hop} was not made from another hop")
        return self

    @model_validator(mode="after")
    def _rests_on_samples(self) -> Gate:
        if self.gate in EXACT and (self.bounds, self.samples) != (None, None):
            raise ValueError(f"{self.gate} of the {self.hop} is exact and can have no bounds")
        if self.gate in EXACT or self.measured is None:
            return self
        if self.bounds is None or self.samples is None:
            raise ValueError(f"{self.gate} of the {self.hop} is an estimate without bounds, which proves nothing")
        if not self.bounds[0] <= self.measured <= self.bounds[1]:
            raise ValueError(f"{self.gate} of the {self.hop} is not inside its own bounds")
        return self

    def judged(self, held: Container[str] = ("engine",)) -> Outcome:
        """The same gate judged anew; ``held`` are the hops whose promises decide."""
        bounds = None if self.bounds is None else (self.bounds[0], self.bounds[1])
        exact = (self.gate, self.hop, self.against, self.limit, self.measured, self.must_decide(held))
        return Outcome(*exact, bounds=bounds, samples=self.samples, note=self.note)

    def must_decide(self, held: Container[str]) -> bool:
        """The other hops are held to the promises only to find where one was broken first."""
        if self.hop == "production":
            return False
        return self.hop in held or not (self.against == "teacher" or self.gate == "score")


class Judgement(Part):
    verdict: Decision
    first_broken: str | None
    margin: float | None
    summary: str
    gates: Sequence[Gate] = Field(min_length=1)
    distillation: Mapping[str, Any] | None = None
    """Whether a student without a teacher keeps the promises too; see ``attar.proof.control``."""

    @property
    def gated(self) -> bool:
        return gated([gate.model_dump() for gate in self.gates])

    @property
    def held(self) -> Sequence[str]:
        """The hops whose promises decide: where the engine was not run, those of the graph that it is built from too."""
        ran = any(gate.hop == "engine" and gate.measured is not None for gate in self.gates)
        return ("engine",) if ran else ("model", "engine")


def gated(gates: Sequence[Mapping[str, Any]]) -> bool:
    """Whether anything that was measured holds what is shipped to the teacher: without it nothing is known of it."""
    shipped = ("engine", "model")  # the model's decides only where it stands for an engine that was not run
    return any(
        each["decides"] and each["against"] == "teacher" and each["hop"] in shipped and each["measured"] is not None
        for each in gates
    )


def check_fit(bundle: Path, found: Judgement, *, finished: bool) -> None:
    """Raises InvalidBundleError unless the verdict is ``passed``, follows from the gates, and some
    gate holds what is shipped to the teacher.

    One that is ``not run here`` will do where the bundle was ``finished``: then every gate of what was run is passed, those of
    the engine's graph against the teacher among them, and the engine answers as its graph does.
    """
    if found.verdict != "passed" and not (finished and found.verdict == "not run here"):
        raise InvalidBundleError(f"{bundle} was never passed: its verdict is {found.verdict!r}; only passed bundles are served")
    if wrong := list(contradictions(found)):
        raise InvalidBundleError(f"the verdict of {bundle} contradicts itself: {'; '.join(wrong)}. {AGAIN}")
    if not found.gated:
        raise InvalidBundleError(
            f"{bundle} is ungated: none of its {len(found.gates)} gates holds the engine to the teacher; "
            "promise score_drop, correlation, cosine, agreement or kdl in [gates] and package it again"
        )


def contradictions(found: Judgement) -> Iterator[str]:
    """What is said otherwise than it follows from the limits and what was measured."""
    for gate in found.gates:
        outcome = gate.judged(found.held)
        said, follows = gate.model_dump(), outcome.facts()
        said["bounds"] = None if gate.bounds is None else list(gate.bounds)
        for name in follows:
            if said[name] != follows[name]:
                yield f"{outcome.sentence}, so {name!r} is {follows[name]!r}, not {said[name]!r}"
    looked_at = {(str(gate.gate), str(gate.hop)) for gate in found.gates}
    for hop, name in product(GATED, ALWAYS):
        if (name, hop) not in looked_at:
            yield f"no gate {name!r} is there for the {hop}"
    for gate in found.gates:
        if gate.measured is None and (gate.hop != "engine" or "model" not in found.held):
            yield f"{gate.gate} of the {gate.hop} was not run, which only all gates of an engine together may be"
    judged = [gate.judged(found.held) for gate in found.gates]
    decided = overall(outcome.verdict for outcome in judged if outcome.decides)
    if decided != found.verdict:
        yield f"its gates amount to {decided!r}, it says {found.verdict!r}"

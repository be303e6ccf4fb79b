"""Proven: what a bundle may hold, an engine whose gates have passed on the evidence about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attar.bundle.manifest import EngineRequirements, Origin
from attar.bundle.stored_verdict import has_teacher_gate
from attar.pipeline.core.errors import GateError, StageError
from attar.pipeline.core.stage import Artifact, Facts
from attar.proof.artifacts import Evidence, Verdict
from attar.proof.verdicts.verdict_json import gates_from_json
from attar.stages.artifacts import Engine, OnnxModel


@dataclass(frozen=True)
class ProvenEngine:
    """An engine, what it was built from, and what was proven of it."""

    onnx: OnnxModel
    model: OnnxModel
    engine: Engine
    evidence: Evidence
    verdict: Verdict
    rows: int = 1
    """Calls of so many rows or more are its own."""

    def is_same_engine(self, other: ProvenEngine) -> bool:
        """Whether both are one engine, byte for byte."""
        return self.engine.digest == other.engine.digest

    @property
    def last_run(self) -> str:
        """The hop whose answers are the bundle's: where the engine was not run here, that of the
        graph it is built from."""
        return "model" if self.engine.why_not_run else "engine"

    @property
    def last(self) -> OnnxModel:
        """The artifact of that hop."""
        return self.model if self.engine.why_not_run else self.engine

    @property
    def made(self) -> Mapping[str, Artifact]:
        """The artifacts by slot."""
        return {
            "onnx": self.onnx,
            "model": self.model,
            "engine": self.engine,
            "evidence": self.evidence,
            "verdict": self.verdict,
        }

    def check(self) -> None:
        """Raises GateError for a verdict that did not pass, and StageError for evidence of
        something else."""
        refuse_unproven(self.verdict.facts, engine_was_run=not self.engine.why_not_run)
        check_evidence(
            self.evidence, {"onnx": self.onnx, "model": self.model, "engine": self.engine}
        )


def refuse_unproven(verdict: Facts, *, engine_was_run: bool) -> None:
    """Raises GateError unless something was promised of the engine, and everything promised was
    kept as far as it was run.

    A promise about an engine that was run, and that could not be measured, is not kept: such as a
    speedup over a reference that was timed on another device.
    """
    kept = verdict["verdict"] == "passed" or (
        verdict["verdict"] == "not run here" and not engine_was_run
    )
    if kept and has_teacher_gate(gates_from_json(verdict["gates"])):
        return
    if kept:
        raise GateError(
            "not packaged: nothing is promised of the engine against the teacher, so nothing is "
            "known of what would be shipped; add score_drop, correlation, cosine, agreement or kdl "
            "to [gates]"
        )
    if verdict["verdict"] == "failed":
        outside = (
            f"{-verdict['margin']:.4g} outside; improve {verdict['first_broken']}, or change the "
            "promise in [gates]"
        )
        raise GateError(f"not packaged: {verdict['summary']}, {outside}")
    raise GateError(f"not packaged: {verdict['summary']}. Only what was proven is shipped")


def check_evidence(evidence: Evidence, packed: Mapping[str, Artifact]) -> None:
    """Raises StageError for what is packed and is not, byte for byte, what was measured."""
    for name, artifact in packed.items():
        measured = evidence.facts["lineage"][name]["digest"]
        if measured != artifact.digest:
            raise StageError(
                f"the evidence is of another {name} ({measured[:12]}) than the one to be packaged "
                f"({artifact.digest[:12]}); measure again"
            )


def describe_requirements(engine: Facts) -> EngineRequirements:
    asked = engine["asked"]
    return EngineRequirements(
        runtime=engine["runtime"],
        version=engine["runtime_version"],
        provider=engine["provider"],
        threads=engine["threads"],
        precision=engine["precision"],
        machine=engine["machine"],
        profile={axis: tuple(sizes) for axis, sizes in asked["profile"].items()},
        options=asked["options"],
    )


def build_lineage(made: Mapping[str, Artifact]) -> dict[str, Origin]:
    """Every key from the teacher on; facts only of what is not told elsewhere in the manifest."""
    earlier = {name: Origin(**each) for name, each in made["evidence"].facts["lineage"].items()}
    told = ("evidence", "verdict")
    given = {
        name: Origin(key=a.key, digest=a.digest, facts={} if name in told else a.facts)
        for name, a in made.items()
    }
    return earlier | given

"""Bundles with an engine of ONNX Runtime for single samples and one of OpenVINO for batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.engines.runtimes.openvino import OpenVino
from attar.engines.runtimes.runtime import BuildSpec
from attar.proof.artifacts import Choice
from attar.proof.ledger.candidates import CandidateChoice, CandidateResult
from attar.proof.ledger.ledger_json import to_json
from attar.proof.verdicts.limits import GateLimits
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.package.stage import Package
from tests.support.bundles.packaging import GATES, prove_chain
from tests.support.proof.proof_parts import NAME, STUDENT, Chain, digest

SINGLE: Mapping[int, float] = {1: 10, 4: 40}
BATCH: Mapping[int, float] = {1: 15, 4: 34}
"""Microseconds of both engines by rows: the second saves -5 and 6, so nothing at 1 + 3 * 5 / 11."""
ROWS = 3
"""Calls of so many rows or more are therefore the batch engine's."""
OTHERWISE = 1.0005
"""How many times the answers of an engine are that gives others, as far off as a conversion may be."""


def build_with_openvino(engine: Engine, model: OnnxModel) -> Engine:
    """Return the engine of this graph, built by OpenVINO in the folder of another."""
    (engine.root / "model.onnx").unlink()
    OpenVino().build(model.file(), engine.root / "model.blob", BuildSpec())
    found = OpenVino().describe_environment()
    made: dict[str, Any] = {"runtime": "openvino", "runtime_version": found.version, "provider": None}
    made |= {"machine": dict(found.machine), "files": {"model": "model.blob"}}
    return replace(engine, digest=digest(str(engine.root)), facts={**engine.facts, **made})


def prove_single(root: Path) -> dict[str, Any]:
    """Return what ``Package`` reads of the engine for single samples."""
    chain = Chain(root)
    return prove_chain(chain, chain.inputs(), GATES)


def prove_batch(root: Path, times: float = 1.0, gates: GateLimits = GATES) -> dict[str, Any]:
    """Return what ``Package`` reads of the engine for batches. Its answers are so many times the student's."""
    matrix = STUDENT * times
    chain = Chain(root, {"model": matrix, "engine": matrix})
    inputs = chain.inputs()
    inputs["engine"] = build_with_openvino(inputs["engine"], inputs["model"])
    proven = {f"batch_{name}": made for name, made in prove_chain(chain, inputs, gates).items() if name != "onnx"}
    return {**proven, "single_choice": make_choice("c1"), "batch_choice": make_choice("c2")}


def make_choice(winner: str, single: Mapping[int, float] = SINGLE, batch: Mapping[int, float] = BATCH) -> Choice:
    """Return the choice of a candidate among two, with their microseconds by rows."""
    candidates = [
        CandidateResult(name, name, "measured", "passed", "", p50=times) for name, times in (("c1", single), ("c2", batch))
    ]
    most = max(single)
    choice = CandidateChoice(winner, True, "", "validation", 100, "accuracy", most, None, tuple(candidates))
    return Choice(digest(winner), digest(winner), Path(), to_json(choice))


def package_pair(root: Path, times: float = 1.0) -> Path:
    """Package both engines. Return the bundle."""
    out = root / "points"
    out.mkdir()
    Package(task=NAME, name="points").run(out, **prove_single(root / "single"), **prove_batch(root / "batch", times))
    return out

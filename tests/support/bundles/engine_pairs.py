"""Bundles with an engine of ONNX Runtime for single samples and one of OpenVINO for batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.engines.runtimes.openvino import OpenVino
from attar.engines.runtimes.runtime import BuildSpec
from attar.proof.verdicts.limits import GateLimits
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.package.stage import Package
from tests.support.bundles.packaging import GATES, edit_manifest, prove_chain
from tests.support.proof.proof_parts import NAME, STUDENT, Chain, digest

ROWS = 3
"""Calls of so many rows or more are the batch engine's."""
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
    proven = prove_chain(chain, inputs, gates)
    return {f"batch_{name}": made for name, made in proven.items() if name != "onnx"}


def package_pair(root: Path, times: float = 1.0) -> Path:
    """Package both engines. Return the bundle, in which the batch engine takes over at ``ROWS``."""
    out = root / "points"
    out.mkdir()
    Package(task=NAME, name="points").run(out, **prove_single(root / "single"), **prove_batch(root / "batch", times))
    edit_manifest(out, lambda manifest: manifest["batch"].update(rows=ROWS))
    return out

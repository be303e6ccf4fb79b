"""Bundles that are packaged for a test, and what a test does to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attar.bundle import checksums
from attar.pipeline.core.stage import Facts
from attar.proof.verdicts.limits import GateLimits
from attar.stages.judge import Judge
from attar.stages.package.stage import Package
from tests.support.proof.proof_parts import NAME, STUDENT, Chain, verdict

GATES = GateLimits(score_drop=0.2, correlation=0.9, teacher_score=0.9)


def package_bundle(root: Path, gates: GateLimits = GATES, task: str = NAME, **changed: Any) -> Path:
    """Package the chain of a task of points in ``root``; what Package reads may be replaced. Return the bundle."""
    chain = Chain(root, task=task)
    package_chain(chain, chain.inputs(), gates, **changed)
    return root / "out"


def package_batch_dependent_bundle(root: Path) -> tuple[Path, Facts]:
    """Package a chain whose engine answers by the whole call. Return the bundle, and what Package says of it."""
    chain = Chain(root)
    inputs = chain.inputs()
    for hop in ("model", "engine"):
        write_batch_dependent_graph(inputs[hop].root / "model.onnx")
    return root / "out", package_chain(chain, inputs, GateLimits(correlation=0.5))


def package_chain(chain: Chain, inputs: Mapping[str, Any], gates: GateLimits, **changed: Any) -> Facts:
    """Measure, judge and package a chain into ``out`` in its folder."""
    given = prove_chain(chain, inputs, gates)
    out = chain.root / "out"
    out.mkdir()
    return Package(task=chain.task, name="points").run(out, **{**given, **changed})


def prove_chain(chain: Chain, inputs: Mapping[str, Any], gates: GateLimits) -> dict[str, Any]:
    """Measure and judge a chain. Return what ``Package`` reads of it."""
    evidence = chain.evidence(inputs)
    judged = verdict(Judge(gates=gates).run(chain.root, evidence=evidence))
    return {**{name: inputs[name] for name in ("onnx", "model", "engine")}, "evidence": evidence, "verdict": judged}


def write_batch_dependent_graph(path: Path) -> None:
    """Write ``x @ STUDENT`` times 1 plus a hundredth of the largest |x| of the whole call, as dynamic int8 rounds by it."""
    x, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 2), ("logits", 3))
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "hundredth"], ["more"]),
        helper.make_node("MatMul", ["x", "matrix"], ["product"]),
        helper.make_node("Mul", ["product", "more"], ["shift"]),
        helper.make_node("Add", ["product", "shift"], ["logits"]),
    ]
    weights = {"matrix": STUDENT, "hundredth": np.float32(0.01)}
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "by_range", [x], [logits], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest and write the checksums anew, as somebody would who means it."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    checksums.write_checksums(bundle)


def write_store_files(bundle: Path, digest: str | None = None) -> None:
    """Write into the bundle the two files that a store adds to an artifact."""
    (bundle / "facts.json").write_text('{"name": "points"}')
    facts = hashlib.sha256((bundle / "facts.json").read_bytes()).hexdigest()
    (bundle / "record.json").write_text(json.dumps({"files": {"facts.json": [18, 0, digest or facts]}}))


WHY_NOT_RUN = "this machine has no accelerator"


def package_unfinished(root: Path, gates: GateLimits = GATES, *, built: bool = True, **broken: Any) -> Path:
    """Package a chain whose engine could not be run, or not even be built. Return the bundle."""
    chain = Chain(root, broken)
    inputs = chain.inputs()
    engine = inputs["engine"]
    unknown: dict[str, Any] = {} if built else {"files": {}, "runtime_version": None, "machine": {}}
    asked = {"profile": {"batch": [1, 4, 8]}, "options": {"workspace": 64}}
    inputs["engine"] = replace(engine, facts={**engine.facts, **unknown, "why": WHY_NOT_RUN, "asked": asked})
    evidence = chain.evidence(inputs)
    judged = verdict(Judge(gates=gates).run(root, evidence=evidence))
    out = root / "out"
    out.mkdir()
    given = {name: inputs[name] for name in ("onnx", "model", "engine")}
    Package(task=NAME, name="points").run(out, **given, evidence=evidence, verdict=judged)
    return out


def rename_graph_output(file: Path) -> None:
    """Rename the output of a graph of points to ``vector``."""
    model = onnx.load(file)
    model.graph.node[0].output[0] = model.graph.output[0].name = "vector"
    onnx.save(model, file)

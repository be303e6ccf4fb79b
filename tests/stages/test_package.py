"""Package: what is written, what is refused, and that the result opens without torch."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from attar.bundle.card import format_signed
from attar.bundle.manifest import Manifest, StoredInput, StoredOutput
from attar.pipeline.core.errors import GateError, StageError
from attar.proof.artifacts import Evidence
from attar.proof.verdicts.limits import GateLimits
from attar.stages.package import stage as package
from attar.stages.package.stage import Package
from tests.support.bundles.packaging import package_batch_dependent_bundle, package_bundle
from tests.support.proof.proof_parts import NAME, STUDENT, TEACHER, Chain, digest, engine, onnx_model, verdict


@pytest.fixture(scope="module")
def bundle(points_bundle: Path) -> Path:
    return points_bundle


def test_an_engine_whose_answers_depend_on_the_whole_call_is_packaged(tmp_path: Path) -> None:
    _, facts = package_batch_dependent_bundle(tmp_path)
    assert facts["golden"]["requests"] == 16


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_text())


def test_the_layout(bundle: Path) -> None:
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()) == [
        "README.md",
        "SHA256SUMS",
        "engines/onnxruntime/model.onnx",
        "golden.safetensors",
        "graphs/model.onnx",
        "manifest.json",
        "reference/model.onnx",
        "report.html",
        "triton/points/1/model.onnx",
        "triton/points/config.pbtxt",
        "triton/points/labels.txt",
        "triton/points/warmup/0",
    ]


def test_the_manifest_says_all_that_serving_needs(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    assert manifest.inputs == {"x": StoredInput(dtype="float32", axes=("batch", 2))}
    assert manifest.outputs == {"logits": StoredOutput(dtype="float32", axes=("batch", 3), kind="logits")}
    assert manifest.labels == ["right", "up", "other"]
    assert manifest.ranges == {"batch": (1, 8)}
    assert (manifest.engine.runtime, manifest.engine.threads) == ("onnxruntime", 1)
    assert manifest.verdict.verdict == "passed"
    assert manifest.verdict.is_gated
    assert {hop["hop"] for hop in manifest.ledger["hops"]} >= {"teacher", "engine"}


def test_the_report_inside_shows_the_ledger_and_the_gates(bundle: Path) -> None:
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert "The ledger" in page
    assert "The gates" in page


def test_the_lineage_leads_back_to_the_teacher(bundle: Path) -> None:
    lineage = manifest_of(bundle).lineage
    assert lineage.keys() >= {"teacher", "answers", "reference", "student", "onnx", "model", "engine", "evidence", "verdict"}
    assert lineage["teacher"].key == hashlib.sha256(b"teacher").hexdigest()
    assert lineage["engine"].facts["precision"] == "fp32"


def test_golden_requests_are_raw_and_answered_by_both(bundle: Path) -> None:
    golden = load_file(bundle / "golden.safetensors")
    assert {name: array.shape for name, array in golden.items()} == {
        "raw.x": (16, 2),
        "teacher.logits": (16, 3),
        "engine.logits": (16, 3),
    }
    assert np.allclose(golden["raw.x"] / 2 @ TEACHER, golden["teacher.logits"], atol=1e-5)
    assert np.allclose(golden["raw.x"] / 2 @ STUDENT, golden["engine.logits"], atol=1e-5)


def test_the_list_of_sums_is_one_that_coreutils_read(bundle: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, check=True, capture_output=True)


def test_the_model_card_shows_the_proof(bundle: Path) -> None:
    card = (bundle / "README.md").read_text()
    assert "| engine | ONNX Runtime | fp32 |" in card
    assert "| engine: score drop against the teacher | at most 0.2 |" in card
    assert "| engine: correlation against model | at least 0.999 |" in card
    assert "`batch` from 1 to 8" in card
    assert "p50, batch 1 (µs)" in card
    assert "`attar bench` compares" in card
    assert card.splitlines()[2].startswith("Every promise is kept: ")
    assert card.splitlines()[2].endswith(".")


def test_a_drop_of_nothing_has_no_sign(bundle: Path) -> None:
    assert [format_signed(drop) for drop in (0.0, -0.0, 4e-5, -4e-5, 0.0123, -0.5)] == ["0", "0", "0", "0", "+0.0123", "-0.5000"]
    card = (bundle / "README.md").read_text()
    assert "-0.0000" not in card
    assert "| teacher | PyTorch | fp32 | 1.0000 | 0 | 1.0000 |" in card


def test_a_failed_verdict_is_refused_with_the_hop_and_the_margin(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"student\), 0\.0\d+ outside") as refused:
        package_bundle(tmp_path, GateLimits(correlation=0.9999))
    assert refused.value.exit_code == 3
    assert not list((tmp_path / "out").iterdir())


def test_an_undecided_verdict_is_not_packaged(tmp_path: Path) -> None:
    inputs = Chain(tmp_path / "chain").inputs()
    given = {name: inputs[name] for name in ("onnx", "model", "engine")}
    judged = verdict({"verdict": "undecided", "summary": "undecided"})
    with pytest.raises(GateError, match="proven is shipped"):
        Package(task=NAME).run(tmp_path, **given, evidence=Evidence("", "", tmp_path, {}), verdict=judged)


def test_a_verdict_that_promises_nothing_of_the_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="add score_drop"):
        package_bundle(tmp_path, GateLimits(teacher_score=0.9))


@pytest.mark.parametrize(("name", "make"), [("engine", engine), ("model", onnx_model), ("onnx", onnx_model)])
def test_the_evidence_of_something_else_is_refused(tmp_path: Path, name: str, make: Any) -> None:
    with pytest.raises(StageError, match=rf"another {name} \(\w{{12}}\)"):
        package_bundle(tmp_path, **{name: make(tmp_path / "other", TEACHER)})
    assert not list((tmp_path / "out").iterdir())


def test_an_engine_that_does_not_repeat_its_answers_is_refused(tmp_path: Path) -> None:
    """Its digest says that it is the one that was measured; it answers otherwise all the same."""
    other = engine(tmp_path / "other", TEACHER)
    same = dataclasses.replace(other, digest=digest(str(STUDENT)))
    with pytest.raises(StageError, match="repeat what was measured"):
        package_bundle(tmp_path, engine=same)


@pytest.mark.parametrize("tolerance", [0, 0.02])
def test_a_tolerance_that_proves_nothing_is_refused(tolerance: float) -> None:
    with pytest.raises(ValidationError, match="tolerance"):
        Package(task=NAME, tolerance=tolerance)


def test_a_bundle_that_needs_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "NEVER_NEEDED", ("onnxruntime",))
    with pytest.raises(StageError, match="without torch: "):
        package_bundle(tmp_path)


def test_external_data_travels_with_its_graph(tmp_path: Path) -> None:
    inputs = Chain(tmp_path / "chain").inputs()
    for name in ("onnx", "model", "engine"):
        path = inputs[name].root / "model.onnx"
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    out = package_bundle(tmp_path / "package", **{name: inputs[name] for name in ("onnx", "model", "engine")})
    for folder in ("graphs", "reference", "engines/onnxruntime", "triton/points/1"):
        assert (out / folder / "model.onnx.data").is_file()

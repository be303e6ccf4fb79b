"""Finish: a bundle whose engine was not run where it was packaged, refused by everybody until a machine that can has built it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums
from attar.bundle import finish as finishing
from attar.bundle.finish import finish_bundle
from attar.bundle.manifest import Manifest
from attar.bundle.opening import check_bundle, open_bundle, open_whole
from attar.engines import cpu
from attar.engines.runtimes import onnxruntime
from attar.engines.runtimes.runtime import RUNTIMES
from attar.pipeline.core.errors import GateError, InvalidBundleError, RecipeError, StageError
from attar.proof.artifacts import Evidence
from attar.proof.verdicts.limits import GateLimits
from attar.serving.load.engine import bench_engine
from attar.stages.judge import Judge
from tests.support.bundles.late import HERE, MISSING
from tests.support.bundles.packaging import GATES, WHY_NOT_RUN, edit_manifest, package_bundle, package_unfinished
from tests.support.proof.proof_parts import STUDENT, TEACHER, Chain, line, write_graph


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_unfinished(tmp_path_factory.mktemp("unfinished"))


@pytest.fixture(scope="module")
def done(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "new" / "bundle"
    finish_bundle(original, out)
    return out


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture
def finished(done: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done, tmp_path / "finished"))


def manifest_of(bundle: Path) -> Manifest:
    return Manifest.model_validate_json((bundle / "manifest.json").read_text())


def content(folder: Path) -> dict[str, str]:
    return {name: checksums.sha256(folder / name) for name in checksums.list_files(folder)}


def test_the_ledger_says_why_the_engine_has_no_numbers(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    inputs = chain.inputs()
    inputs["engine"] = replace(inputs["engine"], facts={**inputs["engine"].facts, "why": WHY_NOT_RUN})
    facts = chain.evidence(inputs).facts
    assert line(facts, "engine") == {
        "hop": "engine", "format": "ONNX Runtime", "precision": "fp32", "status": "not run here", "why": WHY_NOT_RUN
    }  # fmt: skip  # a row reads better on one line
    assert [hop["status"] for hop in facts["hops"][:-1]] == ["measured"] * 5
    assert facts["speedup"] == {"bounds": {}, "rounds": 0}
    assert facts["timing"]["rounds"].keys() == {"1", "4"}
    assert facts["lineage"]["engine"]["key"] == inputs["engine"].key
    judged = Judge(gates=GATES).run(tmp_path, evidence=Evidence("", "", tmp_path, facts))
    assert judged["verdict"] == "not run here"
    assert WHY_NOT_RUN in judged["summary"]


def test_a_graph_that_breaks_a_promise_fails_although_its_engine_was_not_run(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="hop: student"):
        package_unfinished(tmp_path, GateLimits(correlation=0.9999))


def test_a_promise_of_nothing_against_the_teacher_is_not_packaged(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="the engine against the teacher"):
        package_unfinished(tmp_path, GateLimits(teacher_score=0.9))


def test_what_an_unfinished_bundle_holds(original: Path) -> None:
    manifest = manifest_of(original)
    assert manifest.unfinished
    assert (manifest.not_run_here, manifest.verdict.verdict) == (WHY_NOT_RUN, "not run here")
    assert (manifest.engine.profile, manifest.engine.options) == ({"batch": (1, 4, 8)}, {"workspace": 64})
    assert "engines/onnxruntime/model.onnx" in content(original)
    golden = load_file(original / "golden.safetensors")
    assert golden.keys() == {"raw.x", "teacher.logits", "model.logits"}
    assert np.allclose(golden["raw.x"] / 2 @ STUDENT, golden["model.logits"], atol=1e-5)
    card = (original / "README.md").read_text()
    assert "`attar finish BUNDLE -o DIR`" in card
    assert f"| engine | ONNX Runtime | fp32 | not run here: {WHY_NOT_RUN} |" in card
    assert "not run here" in (original / "report.html").read_text()


@pytest.mark.parametrize("use", [check_bundle, open_bundle, open_whole, lambda path: bench_engine(path, batches=(1,))])
def test_nobody_opens_an_unfinished_bundle(original: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(InvalidBundleError, match=rf"\({WHY_NOT_RUN}\); .*/out -o DIR`") as unfit:
        use(original)
    assert unfit.value.exit_code == 4


def test_finishing_builds_the_engine_and_writes_another_bundle(original: Path, done: Path) -> None:
    before = content(original)
    assert check_bundle(done)["verdict"] == "not run here"
    assert content(original) == before
    manifest = manifest_of(done)
    assert not manifest.unfinished
    assert manifest.finished is not None
    assert (manifest.not_run_here, manifest.finished.requests) == (WHY_NOT_RUN, 16)
    assert manifest.finished.largest_difference <= 1e-6
    assert manifest.engine.machine == cpu.describe_machine()
    assert manifest.verdict == manifest_of(original).verdict
    assert load_file(done / "golden.safetensors").keys() == {"raw.x", "teacher.logits", "model.logits", "engine.logits"}
    assert "**Finished by attar" in (done / "README.md").read_text()
    assert {name for name in content(done) if before.get(name) != content(done)[name]} == {
        "README.md", "engines/onnxruntime/model.onnx", "golden.safetensors", "manifest.json"
    }  # fmt: skip  # a set reads better on one line
    assert not list(done.parent.glob(".*"))


def test_a_finished_bundle_answers(done: Path) -> None:
    with open_bundle(done) as model:
        raw = {"x": np.array([[4.0, 0], [0, 4]], np.float32)}
        assert np.allclose(model(model.preprocess(raw))["logits"], raw["x"] / 2 @ STUDENT)
    assert bench_engine(done, batches=(1,), seconds=0.05)["batches"]["1"]["rounds"] > 0


def test_an_engine_of_tensorrt_takes_its_graphs_place_for_triton(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "tensorrt", "tests.support.bundles.late:PlanRuntime")
    edit_manifest(bundle, lambda manifest: manifest["engine"].update(runtime="tensorrt"))
    assert (bundle / "triton" / "points" / "1" / "model.onnx").is_file()
    finish_bundle(bundle, tmp_path / "done")
    engine, version = tmp_path / "done" / "engines" / "tensorrt" / "model.engine", tmp_path / "done" / "triton" / "points" / "1"
    assert [path.name for path in version.iterdir()] == ["model.plan"]
    assert (version / "model.plan").read_bytes() == engine.read_bytes()
    assert 'backend: "tensorrt"' in (version.parent / "config.pbtxt").read_text()


def test_one_that_was_not_even_built(tmp_path: Path) -> None:
    bundle = package_unfinished(tmp_path / "made", built=False)
    assert not (bundle / "engines").exists()
    assert manifest_of(bundle).engine.version is None
    (tmp_path / "empty").mkdir()
    assert finish_bundle(bundle, tmp_path / "empty")["machine"] == "fits"  # an empty folder may be there


@pytest.mark.parametrize("runtime", ["Late", "Later"])
def test_a_machine_that_cannot_either_writes_nothing(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setitem(RUNTIMES, "onnxruntime", f"tests.support.bundles.late:{runtime}")
    with pytest.raises(InvalidBundleError, match=rf"{MISSING}; .* Late"):
        finish_bundle(original, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(HERE, "1")
    finish_bundle(original, tmp_path / "out")


def test_what_building_needs_besides_is_told_and_nothing_is_written(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(name: str) -> None:
        assert name == "onnx"

    monkeypatch.setattr(onnxruntime, "find_spec", lacking)
    with pytest.raises(InvalidBundleError, match=r"built here: .*attar\[train\]"):
        finish_bundle(original, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_has_its_engine_is_not_finished_again(done: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="finished on 20"):
        finish_bundle(done, tmp_path / "out")
    with pytest.raises(RecipeError, match=r"nothing .* unfinished"):
        finish_bundle(package_bundle(tmp_path / "passed"), tmp_path / "out")


def test_a_folder_that_is_in_use(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    for place in (tmp_path / "out", tmp_path / "out" / "mine", bundle):
        with pytest.raises(RecipeError, match="-o"):
            finish_bundle(bundle, place)
    before = content(bundle)
    with pytest.raises(RecipeError, match="never changed"):
        finish_bundle(bundle, bundle / "new")
    assert content(bundle) == before


def test_a_changed_file_is_never_built_from(bundle: Path, tmp_path: Path) -> None:
    write_graph(bundle / "graphs" / "model.onnx", TEACHER)
    with pytest.raises(InvalidBundleError, match=r"graphs/model\.onnx was"):
        finish_bundle(bundle, tmp_path / "out")
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match="graphs/"):
        finish_bundle(bundle, tmp_path / "out")


@pytest.mark.parametrize(("scale", "told"), [(1.01, r"0\.0\d+ .*fp32 0\.001"), (np.nan, "off by inf")])
def test_an_engine_that_answers_otherwise_than_its_graph(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float, told: str
) -> None:
    def scaled(source: object, target: Path, **how: object) -> None:
        write_graph(target, STUDENT * np.float32(scale))

    monkeypatch.setattr(onnxruntime, "write_optimized", scaled)
    with pytest.raises(InvalidBundleError, match=told):
        finish_bundle(original, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_engine_that_cannot_be_built(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **how: object) -> None:
        raise StageError("MatMul 'linear' is not supported")

    monkeypatch.setattr(onnxruntime, "write_optimized", refuse)
    with pytest.raises(InvalidBundleError, match="MatMul 'linear'"):
        finish_bundle(original, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_kill_in_the_middle_leaves_nothing_half_written(original: Path, tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from attar.bundle import finish; "
        "finish.checksums.write_checksums = lambda folder: os.kill(os.getpid(), signal.SIGKILL); "
        "finish.finish_bundle(*sys.argv[1:])"
    )
    out = tmp_path / "out"
    child = subprocess.run([sys.executable, "-c", killed, str(original), str(out)], check=False)
    assert child.returncode == -9
    assert not out.exists()
    assert finish_bundle(original, out)["machine"] == "fits"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def gate(manifest: dict[str, Any], hop: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in manifest["verdict"]["gates"] if (each["hop"], each["gate"]) == (hop, name))
    return found


def lose(manifest: dict[str, Any]) -> None:
    """The graph loses more than promised, and its row says so."""
    row = gate(manifest, "model", "score_drop")
    row.update(measured=0.5, bounds=[0.45, 0.55], margin=row["limit"] - 0.5, verdict="failed")


def unrun(manifest: dict[str, Any], hop: str, name: str) -> None:
    gate(manifest, hop, name).update(measured=None, margin=None, bounds=None, samples=None, verdict="not run here")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(finished=None), "is unfinished: "),
        (lambda m: m.update(finished=None, not_run_here=None), "not run: None"),
        (lambda m: m["verdict"].update(verdict="passed"), r"'passed'.* not run: this"),
        (lambda m: (m["verdict"].update(verdict="failed"), m.update(not_run_here=None)), "was finished"),
        (lambda m: m["engine"].update(version=None), r"version .*runtime"),
        (
            lambda m: m["engine"].update(runtime="onixruntime"),
            "'onixruntime'",
        ),
        (lambda m: m["finished"].update(largest_difference=0.1), r"off by 0\.1 "),
        (lose, r"'failed'.* 'not run here'"),
        (lambda m: gate(m, "model", "score_drop").update(decides=False), r"'decides'.*True.*False"),
        (lambda m: unrun(m, "onnx", "sizes"), "sizes of the onnx"),
        (lambda m: unrun(m, "model", "score_drop"), "score_drop of the model"),
    ],
)
def test_a_finished_bundle_that_contradicts_itself(finished: Path, change: Any, told: str) -> None:
    edit_manifest(finished, change)
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(finished)


def test_an_engine_of_another_student_with_its_own_answers(finished: Path) -> None:
    write_graph(finished / "engines" / "onnxruntime" / "model.onnx", TEACHER)
    tensors = load_file(finished / "golden.safetensors")
    save_file({**tensors, "engine.logits": tensors["raw.x"] / 2 @ TEACHER}, finished / "golden.safetensors")
    checksums.write_checksums(finished)
    with pytest.raises(InvalidBundleError, match="its engine answers otherwise than the graph that it was built from"):
        open_bundle(finished)


def test_finishing_needs_none_of_what_training_needs(original: Path, tmp_path: Path) -> None:
    """But onnx, where the runtime reads the graph in order to build: ONNX Runtime on a CPU does."""
    called = (
        "import json, sys; blocked = ('torch', 'onnxscript', 'sklearn', 'matplotlib', 'jinja2'); "
        "sys.modules.update(dict.fromkeys(blocked)); "
        "from attar.bundle.finish import finish_bundle; print(json.dumps(finish_bundle(*sys.argv[1:])))"
    )
    command = [sys.executable, "-c", called, str(original), str(tmp_path / "out")]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(made.stdout)["golden"]["largest_difference"] == 0


def test_a_full_disk_leaves_nothing(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(bundle: Path, folder: Path, seal: checksums.Checksums) -> None:
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finishing, "copy_sealed_files", full)
    with pytest.raises(Exception, match="No space left"):
        finish_bundle(original, tmp_path / "out")
    assert not list(tmp_path.iterdir())

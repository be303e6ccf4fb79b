"""The engines of a bundle that has two: each takes every check, and its own batches."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from safetensors.numpy import load_file, save_file
from tritonclient.grpc import model_config_pb2

import attar
from attar.bundle import checksums
from attar.bundle.opening import check_bundle
from attar.bundle.sign import sign_bundle
from attar.bundle.verified import read_manifest
from attar.pipeline.core.errors import InvalidBundleError
from attar.serving.core.settings import Settings
from attar.serving.load.engine import bench_engine
from attar.serving.models.engines import open_engines
from tests.support.bundles.engine_pairs import OTHERWISE, ROWS
from tests.support.bundles.packaging import edit_manifest
from tests.support.bundles.signing_parts import KeyPair
from tests.support.proof.proof_parts import STUDENT


@pytest.fixture
def pair(pair_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair_bundle, tmp_path / "points"))


def test_the_rows_of_a_call_say_which_engine_answers(differing_pair_bundle: Path) -> None:
    x = np.array([[1, 2], [3, -1], [0.5, 4], [-2, 1]], np.float32)
    with attar.open(differing_pair_bundle, allow_native=True) as model:
        for rows in range(1, len(x) + 1):
            times = OTHERWISE if rows >= ROWS else 1
            assert model({"x": x[:rows]})["logits"] == pytest.approx(x[:rows] @ STUDENT * times, rel=1e-5)


def test_it_is_checked_whole(pair: Path) -> None:
    facts = check_bundle(pair, allow_native=True)
    assert facts["golden"]["largest_difference"] < 1e-5
    assert facts["engine"] == "loaded"
    assert (facts["batch_rows"], facts["batch_runtime"]) == (ROWS, "openvino")


def test_the_second_engine_is_native_code_and_wants_trust_like_the_first(pair: Path) -> None:
    with pytest.raises(InvalidBundleError, match=r"not loaded: it is native code.*OpenVINO"):
        attar.open(pair)
    assert "OpenVINO" in check_bundle(pair)["engine"]


def of_batch(**changed: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["batch"].update(changed)


def add_machine(manifest: dict[str, Any]) -> None:
    needs = manifest["batch"]["engine"]
    needs["machine"] = dict.fromkeys(needs["machine"], "another")


def fail_gate(manifest: dict[str, Any]) -> None:
    manifest["batch"]["verdict"]["verdict"] = "failed"


def forget_batch_axis(manifest: dict[str, Any]) -> None:
    for tensor in (*manifest["inputs"].values(), *manifest["outputs"].values()):
        tensor["axes"][0] = "samples"
    manifest["ranges"]["samples"] = [1, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fail_gate, "was never passed"),
        (add_machine, r"another machine: .*another"),
        (of_batch(rows=1), r"batch\.rows"),
        (of_batch(rows=9), "batch.rows is 9, and batches of 8 are promised"),
        (lambda manifest: manifest.update(format="attar bundle 1"), "engine for batches is what the format 'attar bundle 2' has"),
        (lambda manifest: manifest.pop("batch"), "engine for batches is what the format 'attar bundle 2' has"),
        (forget_batch_axis, "no input has the axis batch"),
        (lambda manifest: manifest["batch"]["ledger"].update(task="other:Task"), "measured on two tasks, .* and other:Task"),
        (lambda manifest: manifest["batch"]["lineage"]["teacher"].update(digest="0" * 64), "do not come from one teacher"),
        (lambda manifest: manifest["batch"]["ledger"].update(classes=["x", "y", "z"]), "not the classes that were measured"),
    ],
)
def test_what_is_said_of_the_batch_engine_is_held_against_it(
    change: Callable[[dict[str, Any]], object], message: str, pair: Path
) -> None:
    edit_manifest(pair, change)
    with pytest.raises(InvalidBundleError, match=message):
        attar.open(pair, allow_native=True)


@pytest.mark.parametrize("lost", ["batch", "batch/engines", "batch/graphs", "engines"])
def test_an_engine_that_is_spoken_of_and_not_there(lost: str, pair: Path, key: KeyPair) -> None:
    shutil.rmtree(pair / lost)
    checksums.write_checksums(pair)
    which = "for 3 samples or more" if "batch" in lost else "its engine is missing"
    opened: list[Callable[[], object]] = [
        lambda: attar.open(pair, allow_native=True),
        lambda: check_bundle(pair, allow_native=True),
        lambda: sign_bundle(pair, key.private),
        lambda: open_engines(pair, Settings(allow_native=True)),
    ]
    for refuse in opened:
        with pytest.raises(InvalidBundleError, match=rf"points is not whole: {lost}.*{which}"):
            refuse()
    assert not (pair / checksums.SIGNATURE).exists()


def test_it_repeats_its_own_golden_answers_and_not_the_other_s(pair: Path) -> None:
    golden = load_file(pair / "golden.safetensors")
    save_file({**golden, "batch.logits": golden["batch.logits"] + 0.1}, pair / "golden.safetensors")
    checksums.write_checksums(pair)
    with pytest.raises(InvalidBundleError, match="does not repeat its golden answers"):
        attar.open(pair, allow_native=True)
    save_file({name: array for name, array in golden.items() if name != "batch.logits"}, pair / "golden.safetensors")
    checksums.write_checksums(pair)
    with pytest.raises(InvalidBundleError, match=r"expected batch\.logits"):
        attar.open(pair, allow_native=True)


def test_a_runtime_that_is_missing_for_one_of_both_is_named(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(InvalidBundleError, match=r"the engine needs openvino .*attar\[openvino\]"):
        attar.open(pair, allow_native=True)


def test_other_graphs_in_its_folder_are_found(pair: Path) -> None:
    shutil.copyfile(pair / "graphs" / "model.onnx", pair / "batch" / "graphs" / "model.onnx")
    check_bundle(pair, allow_native=True)  # it is the same graph
    (pair / "triton" / "points-batch" / "1" / "model.onnx").write_bytes(b"another")
    checksums.write_checksums(pair)
    with pytest.raises(InvalidBundleError, match=r"models for Triton .*triton/points-batch/1/model\.onnx"):
        check_bundle(pair, allow_native=True)


def test_triton_has_a_model_of_each(pair: Path) -> None:
    for name in ("points", "points-batch"):
        text = (pair / "triton" / name / "config.pbtxt").read_text()
        assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == name
        assert (pair / "triton" / name / "1" / "model.onnx").is_file()


def test_the_benchmark_times_the_engine_of_each_batch(pair: Path) -> None:
    facts = bench_engine(pair, [1, ROWS], 0.05, [100.0], allow_native=True)
    assert facts["batches"].keys() == {"1", str(ROWS)}


def test_its_report_has_a_chapter_for_each(pair: Path) -> None:
    page = (pair / "report.html").read_text(encoding="utf-8")
    assert "points-batch" in page
    assert read_manifest(pair).batch is not None

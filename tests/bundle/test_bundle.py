"""A bundle in use: what is let through, and what is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums
from attar.bundle.opening import check_bundle, open_bundle
from attar.pipeline.core.errors import AttarError, InvalidBundleError
from attar.serving.load.engine import bench_engine
from tests.support.bundles.packaging import edit_manifest, write_store_files
from tests.support.proof.proof_parts import STUDENT, TEACHER, write_graph


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(points_bundle, tmp_path / "bundle"))


def test_an_untouched_bundle_is_fit(bundle: Path) -> None:
    facts = check_bundle(bundle)
    assert facts["golden"] == {"requests": 16, "tolerance": 1e-4, "largest_difference": 0}
    assert (facts["bundle"], facts["verdict"], facts["files"]) == ("points", "passed", 11)


def test_what_the_store_writes_beside_it_is_no_part_of_it(bundle: Path) -> None:
    write_store_files(bundle)
    assert check_bundle(bundle)["files"] == 11


@pytest.mark.parametrize("record", ["{}", "[]", "null", "junk", "\xff", '{"files": {"facts.json": []}}', "[" * 100_000])
def test_files_named_as_those_of_the_store_were_added_by_somebody_else(bundle: Path, record: str) -> None:
    (bundle / "record.json").write_text(record, encoding="latin-1")
    with pytest.raises(InvalidBundleError, match=r"record\.json"):
        check_bundle(bundle)
    (bundle / "facts.json").write_text("{}")
    with pytest.raises(InvalidBundleError, match=r"facts\.json.*record\.json"):
        check_bundle(bundle)


def test_the_record_of_other_facts_does_not_hide_them(bundle: Path) -> None:
    write_store_files(bundle, digest="0" * 64)
    with pytest.raises(InvalidBundleError, match=r"facts\.json.*record\.json"):
        check_bundle(bundle)
    write_store_files(bundle)
    (bundle / "record.json").unlink()
    with pytest.raises(InvalidBundleError, match=r": facts\.json was added\."):
        check_bundle(bundle)


def test_it_answers_raw_requests(bundle: Path) -> None:
    raw = {"x": np.array([[4.0, 0], [0, 4]], np.float32)}
    with open_bundle(bundle) as model:
        outputs = model(model.preprocess(raw))
        assert [model.labels[i] for i in outputs["logits"].argmax(1)] == ["right", "up"]
        assert np.allclose(outputs["logits"], raw["x"] / 2 @ STUDENT)


@pytest.mark.parametrize("name", ["engines/onnxruntime/model.onnx", "golden.safetensors", "manifest.json", "README.md"])
def test_one_flipped_bit_is_found_and_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(InvalidBundleError, match=f"{name} was changed") as unfit:
        check_bundle(bundle)
    assert unfit.value.exit_code == 4
    with pytest.raises(InvalidBundleError):
        open_bundle(bundle)


def test_a_missing_and_an_added_file_are_both_named(bundle: Path) -> None:
    (bundle / "golden.safetensors").unlink()
    (bundle / "graphs" / "other.onnx").write_bytes(b"")
    with pytest.raises(InvalidBundleError, match=r"golden\.safetensors is missing; graphs/other\.onnx was added"):
        check_bundle(bundle)


def test_a_link_is_not_the_file_that_was_sealed(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "golden.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidBundleError, match=r"golden\.safetensors was changed"):
        check_bundle(bundle)


@pytest.mark.parametrize("content", [None, "", "not sums\n", "00  manifest.json\n"])
def test_a_list_of_sums_that_is_gone_or_spoilt(bundle: Path, content: str | None) -> None:
    (bundle / "SHA256SUMS").unlink()
    if content is not None:
        (bundle / "SHA256SUMS").write_text(content)
    with pytest.raises(InvalidBundleError, match=r"SHA256SUMS is missing|was added|no list"):
        check_bundle(bundle)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match="is no folder"):
        check_bundle(tmp_path / "nowhere")
    checksums.write_checksums(tmp_path)
    with pytest.raises(InvalidBundleError, match=r"no manifest\.json"):
        check_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m["verdict"].update(verdict="failed"), "verdict is 'failed'"),
        (lambda m: m.update(format="attar bundle 0"), "reads: format"),
        (lambda m: m["preprocess"]["x"].append({"step": "run", "code": "evil"}), "preprocess.x"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.update(graphs=["../../model"]), r"graphs\.0"),
        (lambda m: m["engine"]["machine"].update(flags=["sve2"]), "machine: flags"),
        (lambda m: m["engine"].update(version="0.1.0"), r"onnxruntime 0\.1\.0"),
        (lambda m: m["engine"].update(runtime="tensorrt"), r"engines/tensorrt/model\.engine of its engine is missing"),
        (lambda m: m["preprocess"]["x"][0].update(by=0.4), "golden answers"),
    ],
)
def test_a_manifest_that_was_sealed_again_still_has_to_be_right(bundle: Path, change: Any, told: str) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(bundle)


def every_gate(manifest: dict[str, Any], **changed: Any) -> None:
    for gate in manifest["verdict"]["gates"]:
        gate.update(changed)


def without_promises_of_the_engine(manifest: dict[str, Any]) -> None:
    gates = manifest["verdict"]["gates"]
    gates[:] = [gate for gate in gates if gate["against"] != "teacher"]


def fail(manifest: dict[str, Any]) -> None:
    """Worse than promised, and said to be so in every deciding gate; only the verdict lies."""
    for gate in manifest["verdict"]["gates"]:
        if (gate["hop"], gate["gate"]) == ("engine", "score_drop"):
            gate.update(measured=0.5, bounds=[0.45, 0.55], margin=gate["limit"] - 0.5, verdict="failed")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(verdict={}), r"verdict\.verdict"),
        (lambda m: m.update(verdict=None), "verdict: "),
        (lambda m: m.update(graphs=[]), "graphs: .*at least 1"),
        (lambda m: m.update(graphs=["encoder"]), "'model'"),
        (lambda m: m.update(inputs={}), "inputs: .*at least 1"),
        (lambda m: m.update(outputs={}), "outputs: .*at least 1"),
        (lambda m: m.update(ranges={}), r"range .* axis batch"),
        (lambda m: m.update(ranges={"batch": [8, 1]}), "batch from 8 to 1"),
        (lambda m: m["inputs"]["x"].update(dtype="float23"), r"'float23'.*'float32'"),
        (lambda m: m["inputs"]["x"].update(axes=["batch", 3]), r"float32 \[batch, 3\]"),
        (lambda m: m["outputs"]["logits"].update(axes=["batch", 4]), r"logits .*float32 \[batch, 4\]"),
        (lambda m: m["preprocess"].update(z=[]), r"steps .* z,"),
        (lambda m: m["preprocess"]["x"].append({"step": "normalize", "mean": [0] * 3, "std": [1] * 3}), "does not preprocess"),
        (lambda m: m["golden"].update(tolerance=1e9), r"golden\.tolerance: .*0\.01"),
        (lambda m: m["golden"].update(tolerance=0), r"golden\.tolerance: .*than 0"),
        (lambda m: m["golden"].update(tolerance="1e-4"), r"golden\.tolerance: .*number"),
        (lambda m: m["golden"].update(requests=0), r"golden\.requests: .*than"),
        (lambda m: m["golden"].update(requests=15), r"shape .* 15"),
        (lambda m: m["engine"].update(threads=-1), r"engine\.threads: .*than"),
        (lambda m: m["engine"].update(threads=10**6), r"engine\.threads"),
        (lambda m: m["engine"].update(provider="Nonsense"), "'Nonsense'"),
        (lambda m: m["verdict"].update(gates=[]), r"verdict\.gates"),
        (lambda m: m["verdict"]["gates"][0].update(gate="beauty"), r"verdict\.gates\.0\.gate"),
        (lambda m: every_gate(m, hop="student", against="previous"), r"student .*hop"),
        (lambda m: every_gate(m, verdict="failed"), "contradicts itself: .*so 'verdict' is 'passed', not 'failed'"),
        (fail, r"'failed', .* 'passed'"),
        (lambda m: every_gate(m, measured=None), r"'verdict' .*'not run here', .*'passed'"),
        (lambda m: every_gate(m, bounds=None), "without bounds"),
        (lambda m: every_gate(m, bounds=[-1.0, -0.9]), "own bounds"),
        (lambda m: every_gate(m, decides=False), r"'decides'.*True.*False"),
        (lambda m: every_gate(m, margin=1.0), r"'margin'.*0\.\d+.*1\.0"),
        (lambda m: every_gate(m, promise="at most 0"), r"'promise' .*0\.9.*0'"),
        (without_promises_of_the_engine, "ungated"),
        (lambda m: m["ledger"].update(classes=False), "labels are not the classes"),
        (lambda m: m["ledger"].update(hops=3), "ledger .*cannot be read"),
        (
            lambda m: m["ledger"]["hops"][0].update(score=m["ledger"]["hops"][0]["score_bounds"][0]),
            "teacher score of the teacher is",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself(bundle: Path, change: Any, told: str) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(InvalidBundleError, match=told) as unfit:
        check_bundle(bundle)
    assert unfit.value.exit_code == 4


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_manifest_that_is_none(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match="the file: "):
        check_bundle(bundle)


def golden(rows: int = 16, **changed: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[Any]]:
    tensors = {
        "raw.x": np.zeros((rows, 2), np.float32),
        "teacher.logits": np.zeros((rows, 3), np.float32),
        "engine.logits": np.zeros((rows, 3), np.float32),
    }
    named = {name.replace("_", "."): array for name, array in changed.items()}
    return {name: array for name, array in {**tensors, **named}.items() if array is not None}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (golden(0), r"raw\.x .*\[0, 2\].* 16|logits .*\[0, 3\].* 16"),
        (golden(engine_logits=np.zeros((15, 3), np.float32)), r"engine\.logits.*\[15, 3\].*16"),
        (golden(engine_logits=np.array(0, np.float32)), r"engine\.logits .*\[\].* 16"),
        (golden(engine_logits=np.zeros((16, 4), np.float32)), r"float32 \[batch, 3\].*\[16, 4\]"),
        (golden(engine_logits=np.zeros((16, 3))), r"float32 \[batch, 3\].*float64 \[16, 3\]"),
        (golden(engine_logits=None), r"raw\.x, teacher\.logits, expected engine\.logits"),
        (golden(raw_x=None), r"holds engine\.logits, teacher\.logits"),
        (golden(raw_y=np.zeros(16)), r"engine\.logits, raw\.x, raw\.y"),
        (golden(raw_x=np.zeros((16, 5), np.float32)), r"float32 \[batch, 2\]"),
        ({}, "it holds nothing"),
    ],
)
def test_golden_requests_that_are_not_what_the_manifest_says(
    bundle: Path, tensors: dict[str, npt.NDArray[Any]], told: str
) -> None:
    save_file(tensors, bundle / "golden.safetensors")
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(bundle)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64, None])
def test_golden_requests_that_cannot_be_read(bundle: Path, content: bytes | None) -> None:
    path = bundle / "golden.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match=r"golden\.safetensors cannot"):
        check_bundle(bundle)


@pytest.mark.parametrize("content", [b"junk", None])
@pytest.mark.parametrize(
    ("folder", "use"),
    [
        ("engines/onnxruntime", check_bundle),
        ("engines/onnxruntime", lambda bundle: bench_engine(bundle, batches=(1,))),
        ("reference", lambda bundle: bench_engine(bundle, batches=(1,))),
    ],
)
def test_a_graph_that_does_not_open(bundle: Path, folder: str, use: Callable[[Path], object], content: bytes | None) -> None:
    path = bundle / folder / "model.onnx"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match=rf"ONNX Runtime .*model\.onnx|is not whole: {folder}/model\.onnx of its engine"):
        use(bundle)


def test_an_engine_with_another_input(bundle: Path) -> None:
    write_graph(bundle / "engines" / "onnxruntime" / "model.onnx", np.zeros((5, 3), np.float32))
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match=r"golden requests: .*'x'"):
        check_bundle(bundle)


def test_an_output_that_the_engine_does_not_give(bundle: Path) -> None:
    tensors = load_file(bundle / "golden.safetensors")
    renamed = {name.replace("logits", "votes"): array for name, array in tensors.items()}
    save_file(renamed, bundle / "golden.safetensors")
    edit_manifest(bundle, lambda m: m["outputs"].update(votes=m["outputs"].pop("logits")))
    with pytest.raises(InvalidBundleError, match=r"'votes'.* logits"):
        check_bundle(bundle)


@pytest.mark.parametrize("threads", [0, -1])
def test_a_number_of_threads_that_the_caller_got_wrong_is_no_fault_of_the_bundle(points_bundle: Path, threads: int) -> None:
    with pytest.raises(AttarError, match=f" {threads} threads") as wrong:
        open_bundle(points_bundle, threads)
    assert not isinstance(wrong.value, InvalidBundleError)


def test_another_number_of_cores_is_no_other_machine(bundle: Path) -> None:
    edit_manifest(bundle, lambda m: m["engine"]["machine"].update(cores=1024))
    check_bundle(bundle)


def test_a_swapped_engine_is_found_by_the_golden_requests(bundle: Path) -> None:
    write_graph(bundle / "engines" / "onnxruntime" / "model.onnx", TEACHER)
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match="golden answers: 'logits'"):
        check_bundle(bundle)


def test_an_engine_that_answers_nan_is_found(bundle: Path) -> None:
    write_graph(bundle / "engines" / "onnxruntime" / "model.onnx", STUDENT * np.float32(np.nan))
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match="off by inf"):
        check_bundle(bundle)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, r"'z' .*known: x"),
        ({"x": np.zeros((1, 2))}, r"float32 \[batch, 2\].*float64 \[1, 2\]"),
        ({"x": np.zeros((1, 3), np.float32)}, r"float32 \[batch, 2\]"),
        ({"x": np.zeros(2, np.float32)}, r"float32 \[batch, 2\]"),
        ({"x": np.zeros((9, 2), np.float32)}, r"batch = 9.* 1 to 8"),
    ],
)
def test_requests_that_it_does_not_take(points_bundle: Path, inputs: dict[str, Any], told: str) -> None:
    with open_bundle(points_bundle) as model, pytest.raises(AttarError, match=told):
        model(inputs)

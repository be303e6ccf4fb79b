"""A bundle in use: what is let through, and what is found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.pipeline.errors import AttarError, Unfit
from attar.stages.bundle import check, open_bundle
from attar.stages.packaging import checksums
from tests.proof_parts import STUDENT, TEACHER, write_graph
from tests.test_package import packaged


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packaged(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest and seal the bundle anew, as somebody would who means it."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    checksums.seal(bundle)


def test_an_untouched_bundle_is_fit(bundle: Path) -> None:
    facts = check(bundle)
    assert facts["golden"] == {"requests": 16, "tolerance": 1e-4, "largest_difference": 0}
    assert (facts["bundle"], facts["verdict"], facts["files"]) == ("points", "passed", 9)


def test_what_the_store_writes_beside_it_is_no_part_of_it(bundle: Path) -> None:
    (bundle / "record.json").write_text("{}")
    (bundle / "facts.json").write_text("{}")
    check(bundle)


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
    with pytest.raises(Unfit, match=f"{name} was changed") as unfit:
        check(bundle)
    assert unfit.value.exit_code == 4
    with pytest.raises(Unfit):
        open_bundle(bundle)


def test_a_missing_and_an_added_file_are_both_named(bundle: Path) -> None:
    (bundle / "golden.safetensors").unlink()
    (bundle / "graphs" / "other.onnx").write_bytes(b"")
    with pytest.raises(Unfit, match=r"golden\.safetensors is missing; graphs/other\.onnx was added"):
        check(bundle)


def test_a_link_is_not_the_file_that_was_sealed(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "golden.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unfit, match=r"golden\.safetensors was changed"):
        check(bundle)


@pytest.mark.parametrize("content", [None, "", "not sums\n", "00  manifest.json\n"])
def test_a_list_of_sums_that_is_gone_or_spoilt(bundle: Path, content: str | None) -> None:
    (bundle / "SHA256SUMS").unlink()
    if content is not None:
        (bundle / "SHA256SUMS").write_text(content)
    with pytest.raises(Unfit, match=r"SHA256SUMS is missing|was added|no list"):
        check(bundle)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="is no folder"):
        check(tmp_path / "nowhere")
    checksums.seal(tmp_path)
    with pytest.raises(Unfit, match=r"no manifest\.json"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m["verdict"].update(verdict="failed"), "never passed: its verdict is 'failed'"),
        (lambda m: m.update(format="attar bundle 2"), "not one that this version reads: format"),
        (lambda m: m["preprocess"]["x"].append({"step": "run", "code": "evil"}), "preprocess.x"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.update(graphs=["../../model"]), r"graphs\.0"),
        (lambda m: m["engine"]["machine"].update(flags=["sve2"]), "built on another machine: flags"),
        (lambda m: m["engine"].update(version="0.1.0"), "built by onnxruntime 0.1.0, here is"),
        (lambda m: m["engine"].update(runtime="tensorrt"), "needs tensorrt"),
        (lambda m: m["preprocess"]["x"][0].update(by=0.4), "does not repeat its golden answers"),
    ],
)
def test_a_manifest_that_was_sealed_again_still_has_to_be_right(bundle: Path, change: Any, told: str) -> None:
    edit(bundle, change)
    with pytest.raises(Unfit, match=told):
        check(bundle)


def test_another_number_of_cores_is_no_other_machine(bundle: Path) -> None:
    edit(bundle, lambda m: m["engine"]["machine"].update(cores=1024))
    check(bundle)


def test_a_swapped_engine_is_found_by_the_golden_requests(bundle: Path) -> None:
    write_graph(bundle / "engines" / "onnxruntime" / "model.onnx", TEACHER)
    checksums.seal(bundle)
    with pytest.raises(Unfit, match="does not repeat its golden answers: 'logits' is off by"):
        check(bundle)


def test_an_engine_that_answers_nan_is_found(bundle: Path) -> None:
    write_graph(bundle / "engines" / "onnxruntime" / "model.onnx", STUDENT * np.float32(np.nan))
    checksums.seal(bundle)
    with pytest.raises(Unfit, match="off by inf"):
        check(bundle)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, "'z' is not an input; .*known: x"),
        ({"x": np.zeros((1, 2))}, r"float64\[1, 2\], expected float32\[batch, 2\]"),
        ({"x": np.zeros((1, 3), np.float32)}, r"expected float32\[batch, 2\]"),
        ({"x": np.zeros(2, np.float32)}, r"expected float32\[batch, 2\]"),
        ({"x": np.zeros((9, 2), np.float32)}, "batch is 9, promised and proven are 1 to 8"),
    ],
)
def test_requests_that_it_does_not_take(original: Path, inputs: dict[str, Any], told: str) -> None:
    with open_bundle(original) as model, pytest.raises(AttarError, match=told):
        model(inputs)


def test_opening_one_needs_none_of_what_training_needs(original: Path) -> None:
    called = (
        "import sys; from attar.stages.bundle import open_bundle; open_bundle(sys.argv[1]).close(); "
        "print(*(name for name in ('torch', 'onnx', 'sklearn', 'matplotlib', 'jinja2') if name in sys.modules))"
    )
    made = subprocess.run([sys.executable, "-c", called, original], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == ""

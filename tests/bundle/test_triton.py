"""A bundle's repository for Triton, read by Triton's own protobuf; its files are what the configuration says of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from safetensors.numpy import load_file
from tritonclient.grpc import model_config_pb2

from attar.bundle import checksums, triton
from attar.bundle.manifest import EngineRequirements, Manifest, StoredInput, StoredOutput
from attar.bundle.opening import LOADED, check_bundle
from attar.bundle.verified import read_manifest
from attar.models.task import Arrays
from attar.pipeline.core.errors import InvalidBundleError
from tests.support.projects.copies import ROOT


@pytest.fixture
def manifest(points_bundle: Path) -> Manifest:
    return read_manifest(points_bundle)


def parsed(manifest: Manifest, requests: Arrays) -> Any:
    """The configuration, as Triton reads it. Raises ParseError for a field that it does not know."""
    return text_format.Parse(triton.format_config("points", manifest, requests), model_config_pb2.ModelConfig())


def points(rows: int = 2) -> dict[str, Any]:
    return {"x": np.zeros((rows, 2), np.float32)}


def changed(manifest: Manifest, **engine: Any) -> Manifest:
    return manifest.model_copy(update={"engine": EngineRequirements(**{**manifest.engine.model_dump(), **engine})})


def test_tritons_own_protobuf_reads_it(points_bundle: Path) -> None:
    text = (points_bundle / "triton" / "points" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend, config.max_batch_size) == ("points", "onnxruntime", 8)
    (given,), (answer,) = config.input, config.output
    assert (given.name, given.data_type, list(given.dims)) == ("x", model_config_pb2.TYPE_FP32, [2])
    assert (answer.name, answer.data_type, list(answer.dims)) == ("logits", model_config_pb2.TYPE_FP32, [3])
    assert config.version_policy.latest.num_versions == 1
    assert [(each.count, each.kind) for each in config.instance_group] == [(1, model_config_pb2.ModelInstanceGroup.KIND_CPU)]
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 1024
    assert [each.batch_size for each in config.model_warmup] == [1, 8]


def test_every_file_that_it_names_is_there(points_bundle: Path) -> None:
    """A warm-up's file holds one sample in the declared shape: Triton copies it to fill a batch."""
    model = points_bundle / "triton" / "points"
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert [(model / each.label_filename).read_text() for each in config.output] == ["right\nup\nother\n"]
    for warmup in config.model_warmup:
        assert warmup.inputs.keys() == {each.name for each in config.input}
        for given in warmup.inputs.values():
            content = (model / "warmup" / given.input_data_file).read_bytes()
            assert np.frombuffer(content, np.float32).shape == tuple(given.dims)


def test_the_client_of_the_page_prepares_inputs_without_an_engine(points_bundle: Path) -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(from pathlib.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"raw": {"x": np.array([[4.0, 2.0]], np.float32)}, "outputs": {"y": np.ones((1, 1))}}
    exec(code.replace("BUNDLE", str(points_bundle)), names)  # noqa: S102  # our own page, so that it stays true
    assert np.array_equal(names["inputs"]["x"], [[2.0, 1.0]])
    assert np.array_equal(names["answers"]["y"], [[1.0]])


def test_it_is_warmed_by_the_first_golden_request_preprocessed(points_bundle: Path) -> None:
    content = (points_bundle / "triton" / "points" / "warmup" / "0").read_bytes()
    raw = load_file(points_bundle / "golden.safetensors")["raw.x"]
    assert np.array_equal(np.frombuffer(content, np.float32), raw[0] / 2)


def test_odd_tensors(manifest: Manifest) -> None:
    """A scalar input a sample, a dynamic axis and a quote in a name."""
    inputs = {
        'a "b"': StoredInput(dtype="int64", axes=("batch", "sequence")),
        "scalar": StoredInput(dtype="float32", axes=("batch",)),
    }
    requests: dict[str, Any] = {'a "b"': np.zeros((2, 7), np.int64), "scalar": np.zeros(2, np.float32)}
    config = parsed(manifest.model_copy(update={"inputs": inputs}), requests)
    assert [(each.name, list(each.dims), each.HasField("reshape")) for each in config.input] == [
        ('a "b"', [-1], False),
        ("scalar", [1], True),
    ]
    assert {name: list(each.dims) for name, each in config.model_warmup[0].inputs.items()} == {'a "b"': [7], "scalar": [1]}


@pytest.mark.parametrize("lowest", [1, 2])
def test_what_cannot_be_cut_into_single_samples_is_never_batched(manifest: Manifest, lowest: int) -> None:
    fixed = {"inputs": {"x": StoredInput(dtype="float32", axes=(2,))}} if lowest == 1 else {"ranges": {"batch": (2, 8)}}
    config = parsed(manifest.model_copy(update=fixed), points(4))
    assert config.max_batch_size == 0
    assert list(config.output[0].dims) == [-1, 3]
    assert not config.HasField("dynamic_batching")
    assert [list(each.inputs["x"].dims) for each in config.model_warmup] == [[lowest, 2]]


@pytest.mark.parametrize(
    ("precision", "profile", "ranges", "sizes"),
    [
        ("int8", {"batch": (1, 4, 16)}, (1, 8), [4, 8]),
        ("int8", {"batch": (1, 64, 128)}, (1, 32), [32]),
        ("fp32", {}, (1, 1), []),
        ("int8-dynamic", {}, (1, 8), []),  # its answers would depend on whom a request shares a call with
    ],
)
def test_preferred_sizes(manifest: Manifest, precision: str, profile: Any, ranges: tuple[int, int], sizes: list[int]) -> None:
    asked = changed(manifest, precision=precision, profile=profile).model_copy(update={"ranges": {"batch": ranges}})
    config = parsed(asked, points())
    assert config.max_batch_size == ranges[1]
    assert list(config.dynamic_batching.preferred_batch_size) == sizes
    assert config.HasField("dynamic_batching") == bool(sizes)


def test_labels_are_for_logits_alone(manifest: Manifest, tmp_path: Path, points_bundle: Path) -> None:
    outputs = {"logits": StoredOutput(dtype="float32", axes=("batch", 3), kind="values")}
    other = manifest.model_copy(update={"outputs": outputs})
    assert not parsed(other, points()).output[0].label_filename
    triton.write_repository(tmp_path, other, points_bundle, points())
    assert not (tmp_path / "points" / "labels.txt").exists()


def test_an_engine_of_cuda_is_for_the_gpu(manifest: Manifest) -> None:
    config = parsed(changed(manifest, provider="CUDAExecutionProvider"), points())
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert not config.parameters


@pytest.fixture
def built(points_bundle: Path, manifest: Manifest, tmp_path: Path) -> tuple[Path, Manifest]:
    """A bundle whose engine is one of TensorRT, as far as Triton's repository is concerned."""
    bundle = Path(shutil.copytree(points_bundle, tmp_path / "bundle"))
    (bundle / "engines" / "tensorrt").mkdir()
    (bundle / "engines" / "tensorrt" / "model.engine").write_bytes(b"an engine")
    shutil.rmtree(bundle / "triton")
    made = changed(manifest, runtime="tensorrt", provider=None, profile={"batch": (1, 4, 8)})
    triton.write_repository(bundle / "triton", made, bundle, points())
    return bundle, made


def test_an_engine_of_tensorrt_is_for_tritons_own_backend(built: tuple[Path, Manifest]) -> None:
    bundle, manifest = built
    triton.check_repository(bundle, manifest, points())
    assert (bundle / "triton" / "points" / "1" / "model.plan").read_bytes() == b"an engine"
    assert not list((bundle / "triton").rglob("*.onnx"))
    config = parsed(manifest, points())
    assert config.backend == "tensorrt"
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]


def test_another_engine_for_triton_is_refused(built: tuple[Path, Manifest]) -> None:
    bundle, manifest = built
    (bundle / "triton" / "points" / "1" / "model.plan").write_bytes(b"another")
    with pytest.raises(InvalidBundleError, match=r"Triton .*engines/"):
        triton.check_repository(bundle, manifest, points())


def test_a_later_version_beside_the_proven_one_is_refused(bundle: Path, manifest: Manifest) -> None:
    shutil.copytree(bundle / "triton" / "points" / "1", bundle / "triton" / "points" / "2")
    with pytest.raises(InvalidBundleError, match=r"Triton .*graphs/.*triton/points/2/model\.onnx"):
        triton.check_repository(bundle, manifest, points())


def run_code(model: Path) -> None:
    """Let Triton run Python that lies among the warm-ups, where no graph is looked for."""
    (model / "warmup" / "evil.py").write_text("raise SystemExit")
    config = (model / "config.pbtxt").read_text().replace('"onnxruntime"', '"python"')
    (model / "config.pbtxt").write_text(config + 'default_model_filename: "../warmup/evil.py"\n')


def add_model(model: Path) -> None:
    shutil.copytree(model, model.with_name("other"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (run_code, "triton/points/config.pbtxt, triton/points/warmup/evil.py"),
        (lambda model: (model / "warmup" / "evil.py").touch(), "triton/points/warmup/evil.py"),
        (add_model, "triton/other/1/model.onnx, triton/other/config.pbtxt, "),
        (lambda model: (model / "warmup" / "0").write_bytes(b"0" * 9), "triton/points/warmup/0"),
        (lambda model: (model / "labels.txt").write_text("up\nright\nother\n"), "triton/points/labels.txt"),
        (lambda model: (model / "labels.txt").unlink(), "triton/points/labels.txt"),
        (lambda model: (model.parent / "evil.py").symlink_to("/"), "triton/evil.py"),
    ],
)
def test_whatever_else_triton_would_read_is_refused(
    bundle: Path, manifest: Manifest, change: Callable[[Path], object], told: str
) -> None:
    change(bundle / "triton" / "points")
    with pytest.raises(InvalidBundleError, match=rf"models for Triton .*graphs/ and manifest\.json: {re.escape(told)}"):
        triton.check_repository(bundle, manifest, points())


def test_a_bundle_with_another_configuration_that_was_sealed_again_is_refused(bundle: Path) -> None:
    assert check_bundle(bundle)["engine"] == LOADED
    run_code(bundle / "triton" / "points")
    checksums.write_checksums(bundle)
    with pytest.raises(InvalidBundleError, match=r"models for Triton .*config\.pbtxt"):
        check_bundle(bundle)


def test_a_warm_up_may_be_rounded_otherwise(bundle: Path, manifest: Manifest) -> None:
    """By another version of a decoder or of numpy, on the machine that checks it."""
    triton.check_repository(bundle, manifest, {"x": np.ones((2, 2), np.float32)})


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_what_triton_cannot_run_stays_a_graph(manifest: Manifest, runtime: str) -> None:
    """An engine of TensorRT-RTX, and one that was never run."""
    other = changed(manifest, runtime=runtime, provider=None)
    waiting = other.model_copy(update={"not_run_here": "no GPU"} if runtime == "tensorrt" else {})
    assert parsed(waiting, points()).backend == "onnxruntime"


def test_several_graphs_are_models_whose_tensors_triton_reads_itself(
    manifest: Manifest, points_bundle: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(points_bundle, tmp_path / "bundle"))
    shutil.copyfile(bundle / "graphs" / "model.onnx", bundle / "graphs" / "encoder.onnx")
    shutil.rmtree(bundle / "triton")
    several = manifest.model_copy(update={"graphs": ["encoder", "model"]})
    triton.write_repository(bundle / "triton", several, bundle, points())
    triton.check_repository(bundle, several, points())
    assert sorted(path.relative_to(bundle / "triton").as_posix() for path in (bundle / "triton").glob("*/*")) == [
        "points-encoder/1",
        "points-encoder/config.pbtxt",
        "points-model/1",
        "points-model/config.pbtxt",
    ]
    config = parsed(several, points())
    assert (list(config.input), list(config.output), config.max_batch_size) == ([], [], 0)

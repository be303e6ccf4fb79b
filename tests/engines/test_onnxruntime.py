from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from attar.engines.runtimes import onnxruntime
from attar.engines.runtimes.runtime import BuildSpec
from attar.models.task import Arrays
from attar.pipeline.core.errors import AttarError, MissingDependencyError, StageError
from attar.pipeline.core.stage import Device
from attar.pipeline.keys.machine import count_cores
from attar.stages.artifacts import OnnxModel
from tests.support.tasks import smoke

AZURE = "AzureExecutionProvider"
IMAGE = np.zeros((2, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"the graph wants an input 'image' \(float32 \[batch, 1, 8, 8\]\) and got none"),
        ({"picture": IMAGE}, r"'image' .*got picture"),
        ({"image": IMAGE, "imag": IMAGE}, r"'imag'.*'image'\?"),
        ({"image": IMAGE.astype(">f4")}, "byte order"),
        ({"image": IMAGE.astype(np.float64)}, r"'image' .* float64 \[2, 1, 8, 8\]"),
        ({"image": IMAGE[..., :4]}, r"'image' .* float32 \[2, 1, 8, 4\]"),
        ({"image": IMAGE[0]}, r"'image' .* got float32 \[1, 8, 8\]"),
    ],
)
def test_wrong_inputs_are_named(digits_onnx: OnnxModel, inputs: Arrays, message: str) -> None:
    with digits_onnx.open(threads=1) as predict, pytest.raises(StageError, match=message):
        predict(inputs)


def test_an_unknown_provider_is_not_replaced_by_the_cpu(digits_onnx: OnnxModel) -> None:
    files = {"model": digits_onnx.file()}
    with (
        pytest.raises(StageError, match=r"'CPUExecutionProvidr'.*'CPUExecutionProvider'\?"),
        onnxruntime.open_session(files, 1, "CPUExecutionProvidr"),
    ):
        pass


@pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason="no provider that leaves nodes to the CPU")
def test_nodes_that_land_on_another_provider_are_named(digits_onnx: OnnxModel, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(StageError, match=rf"{AZURE} .*'node_\w+'.* on CPUExecutionProvider"),
        onnxruntime.open_session({"model": digits_onnx.file()}, 1, AZURE),
    ):
        pass
    refused = onnxruntime.OnnxRuntime().find_refused_nodes(digits_onnx.file(), BuildSpec(provider=AZURE))
    assert {each.operator for each in refused} >= {"Conv", "Gemm"}
    assert re.fullmatch(r"Conv 'node_\w+': it runs on CPUExecutionProvider", str(refused[0]))
    assert capfd.readouterr().err == ""


def test_the_cpu_takes_every_node(digits_onnx: OnnxModel) -> None:
    assert onnxruntime.OnnxRuntime().find_refused_nodes(digits_onnx.file(), BuildSpec()) == []


def test_an_operator_that_nobody_implements_is_named(tmp_path: Path) -> None:
    refused = onnxruntime.OnnxRuntime().find_refused_nodes(smoke.strange(tmp_path), BuildSpec())
    assert [str(node).partition(": ")[0] for node in refused] == ["my.ops:Strange"]


@pytest.mark.parametrize("provider", sorted(onnxruntime.NVIDIA))
def test_a_provider_whose_hardware_is_not_here(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setattr(onnxruntime, "list_gpus", list)
    assert onnxruntime.OnnxRuntime().explain_unbuildable(BuildSpec(provider=provider)) == "no NVIDIA GPU"
    monkeypatch.setattr(onnxruntime, "list_gpus", lambda: ["one"])
    assert onnxruntime.OnnxRuntime().explain_unbuildable(BuildSpec(provider=provider)) is None


def test_a_provider_of_another_package_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="onnxruntime-openvino"):
        onnxruntime.check_provider("OpenVINOExecutionProvider")
    with pytest.raises(MissingDependencyError, match="'NnapiExecutionProvider'"):
        onnxruntime.check_provider("NnapiExecutionProvider")


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StageError, match=r"broken\.onnx"), onnxruntime.open_session({"model": file}, 1):
        pass


def test_threads() -> None:
    for asked, expected, spinning in ((None, count_cores(), None), (1, 1, "0"), (3, 3, "1")):
        made = onnxruntime.make_session_options(asked, onnxruntime.CPU, optimize=True)
        assert (made.intra_op_num_threads, made.inter_op_num_threads) == (expected, 1)
        if spinning:
            assert made.get_session_config_entry("session.intra_op.allow_spinning") == spinning
    with pytest.raises(StageError, match="0 threads"):
        onnxruntime.make_session_options(0, onnxruntime.CPU, optimize=True)


def test_building_without_onnx_says_what_to_install(
    tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'attar\[train\]'"):
        onnxruntime.OnnxRuntime().build(digits_onnx.file(), tmp_path / "model.onnx", BuildSpec())


def test_float32_on_cuda_is_not_tensorfloat32(monkeypatch: pytest.MonkeyPatch, digits_onnx: OnnxModel) -> None:
    """The provider's own default is TensorFloat-32."""
    asked: list[object] = []

    def open_session(file: object, options: object, *, providers: object, **others: object) -> SimpleNamespace:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: [onnxruntime.CUDA])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [onnxruntime.CUDA, onnxruntime.CPU])
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    options = onnxruntime.make_session_options(1, onnxruntime.CUDA, optimize=True)
    onnxruntime.start_session(digits_onnx.file(), options, onnxruntime.CUDA)
    assert asked == [[(onnxruntime.CUDA, {"use_tf32": "0"})]]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(StageError, match="NVIDIA_TF32_OVERRIDE = 1"):
        onnxruntime.start_session(digits_onnx.file(), options, onnxruntime.CUDA)


@pytest.mark.parametrize(
    ("asked", "gpus", "providers", "found"),
    [
        ("cpu", ["NVIDIA L4"], [onnxruntime.CUDA], "cpu"),
        ("auto", ["NVIDIA L4"], [onnxruntime.CUDA], "cuda"),
        ("cuda", ["NVIDIA L4"], [onnxruntime.CUDA], "cuda"),
        ("auto", [], [onnxruntime.CUDA], "cpu"),
        ("auto", ["NVIDIA L4"], [], "cpu"),
        ("cuda", [], [onnxruntime.CUDA], "no NVIDIA GPU; use --device cpu"),
        ("cuda", ["NVIDIA L4"], [], "install onnxruntime-gpu"),
    ],
)
def test_where_a_graph_runs(
    asked: Device, gpus: list[str], providers: list[str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "list_gpus", lambda: gpus)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*providers, onnxruntime.CPU])
    if found in ("cpu", "cuda"):
        assert onnxruntime.select_device(asked) == found
    else:
        with pytest.raises(AttarError, match=found):
            onnxruntime.select_device(asked)

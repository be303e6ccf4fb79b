from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
import torch
from torch import nn

from attar.engines.graphs.half_precision import convert_to_fp16
from attar.engines.graphs.inspection import list_size_nodes
from attar.engines.graphs.preparation import clear_metadata, prepare_graph
from attar.engines.runtimes import cuda, onnxruntime, onnxruntime_sessions, providers
from attar.engines.runtimes.runtime import BuildSpec, RefusedNode
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


@pytest.mark.parametrize("provider", sorted(providers.NVIDIA))
def test_a_provider_whose_hardware_is_not_here(monkeypatch: pytest.MonkeyPatch, provider: str) -> None:
    monkeypatch.setattr(cuda, "explain_missing_gpu", lambda: "no NVIDIA GPU here")
    assert onnxruntime.OnnxRuntime().explain_unbuildable(BuildSpec(provider=provider)) == "no NVIDIA GPU here"
    monkeypatch.setattr(cuda, "explain_missing_gpu", lambda: None)
    assert onnxruntime.OnnxRuntime().explain_unbuildable(BuildSpec(provider=provider)) is None


def test_a_provider_of_another_package_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="onnxruntime-openvino"):
        providers.check_provider("OpenVINOExecutionProvider")
    with pytest.raises(MissingDependencyError, match="'NnapiExecutionProvider'"):
        providers.check_provider("NnapiExecutionProvider")


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(StageError, match=r"broken\.onnx"), onnxruntime.open_session({"model": file}, 1):
        pass


def test_threads() -> None:
    for asked, expected, spinning in ((None, count_cores(), None), (1, 1, "0"), (3, 3, "1")):
        made = onnxruntime_sessions.make_session_options(asked, providers.CPU)
        assert (made.intra_op_num_threads, made.inter_op_num_threads) == (expected, 1)
        if spinning:
            assert made.get_session_config_entry("session.intra_op.allow_spinning") == spinning
    with pytest.raises(StageError, match="0 threads"):
        onnxruntime_sessions.make_session_options(0, providers.CPU)


def test_building_without_onnx_says_what_to_install(
    tmp_path: Path, digits_onnx: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'attar\[train\]'"):
        onnxruntime.OnnxRuntime().build(digits_onnx.file(), tmp_path / "model.onnx", BuildSpec())


def test_float32_on_cuda_is_not_tensorfloat32(monkeypatch: pytest.MonkeyPatch, digits_onnx: OnnxModel) -> None:
    """The provider's own default is TensorFloat-32."""
    asked: list[object] = []

    def open_session(file: object, options: object, **given: object) -> SimpleNamespace:
        asked.append(given["providers"])
        return SimpleNamespace(get_providers=lambda: [providers.CUDA])

    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr(ort, "InferenceSession", open_session)
    options = onnxruntime_sessions.make_session_options(1, providers.CUDA)
    onnxruntime_sessions.start_session(digits_onnx.file(), options, providers.CUDA)
    assert asked == [[(providers.CUDA, {"use_tf32": "0"})]]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    with pytest.raises(StageError, match="NVIDIA_TF32_OVERRIDE = 1"):
        onnxruntime_sessions.start_session(digits_onnx.file(), options, providers.CUDA)


@pytest.mark.parametrize(
    ("asked", "gpus", "offered", "found"),
    [
        ("cpu", ["NVIDIA L4"], [providers.CUDA], "cpu"),
        ("auto", ["NVIDIA L4"], [providers.CUDA], "cuda"),
        ("cuda", ["NVIDIA L4"], [providers.CUDA], "cuda"),
        ("auto", [], [providers.CUDA], "cpu"),
        ("auto", ["NVIDIA L4"], [], "cpu"),
        ("cuda", [], [providers.CUDA], "no NVIDIA GPU here; use --device cpu"),
        ("cuda", ["NVIDIA L4"], [], "install onnxruntime-gpu"),
    ],
)
def test_where_a_graph_runs(
    asked: Device, gpus: list[str], offered: list[str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "explain_missing_gpu", lambda: None if gpus else "no NVIDIA GPU here")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [*offered, providers.CPU])
    if found in ("cpu", "cuda"):
        assert providers.select_device(asked) == found
    else:
        with pytest.raises(AttarError, match=found):
            providers.select_device(asked)


def sized_graph() -> onnx.ModelProto:
    """``y = relu(x)`` reshaped to what its own size says, and a bias that no size decides."""
    text = """
        <ir_version: 10, opset_import: ["" : 20]>
        sized (float[batch, 4] x) => (float[n, 2] y)
        <int64[1] zero = {0}, int64[1] two = {2}, float[2] bias = {1, 2}> {
            [size] shape = Shape (x)
            [first] batch = Gather (shape, zero)
            [twice] rows = Mul (batch, two)
            [target] target = Concat <axis = 0> (rows, two)
            [relu] positive = Relu (x)
            [reshape] wide = Reshape (positive, target)
            [bias] y = Add (wide, bias)
        }
    """
    return onnx.parser.parse_model(text)


def test_nodes_that_compute_sizes_alone(tmp_path: Path) -> None:
    onnx.save(sized_graph(), tmp_path / "sized.onnx")
    assert list_size_nodes(tmp_path / "sized.onnx") == {"size", "first", "twice", "target"}


@pytest.mark.parametrize(("on_cpu", "refused"), [([("twice", "Mul")], []), ([("twice", "Mul"), ("bias", "Add")], ["bias"])])
def test_a_gpu_may_leave_sizes_to_the_cpu_and_nothing_else(
    on_cpu: list[tuple[str, str]], refused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(sized_graph(), tmp_path / "sized.onnx")
    strays = [RefusedNode(name, operator, "it runs on CPUExecutionProvider") for name, operator in on_cpu]
    monkeypatch.setattr(onnxruntime, "start_session", lambda *asked: None)
    monkeypatch.setattr(onnxruntime, "list_stray_nodes", lambda *asked: strays)
    found = onnxruntime.OnnxRuntime().find_refused_nodes(tmp_path / "sized.onnx", BuildSpec(provider=providers.CUDA))
    assert [each.node for each in found] == refused
    options = onnxruntime_sessions.make_session_options(1, providers.CUDA)
    onnxruntime.create_session(tmp_path / "sized.onnx", options, providers.CUDA)
    strays.append(RefusedNode("wrong", "MatMul", "it runs on CPUExecutionProvider"))
    with pytest.raises(StageError, match="does not run 1 nodes of the graph: MatMul 'wrong'"):
        onnxruntime.create_session(tmp_path / "sized.onnx", options, providers.CUDA)


def test_the_engine_of_a_gpu_is_the_graph_itself(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    """What ONNX Runtime would write for one does not load again."""
    onnxruntime.OnnxRuntime().build(digits_onnx.file(), tmp_path / "engine.onnx", BuildSpec(provider=providers.CUDA))
    assert (tmp_path / "engine.onnx").read_bytes() == digits_onnx.file().read_bytes()


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, digits_onnx: OnnxModel) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write("Failed to load libcublasLt.so.13\n"))
    monkeypatch.setattr(ort, "InferenceSession", lambda *given, **named: SimpleNamespace(get_providers=lambda: [providers.CPU]))
    providers.preload_libraries.cache_clear()
    options = onnxruntime_sessions.make_session_options(1, providers.CUDA)
    with pytest.raises(StageError, match=r"runs on CPUExecutionProvider: Failed to load libcublasLt\.so\.13"):
        onnxruntime_sessions.start_session(digits_onnx.file(), options, providers.CUDA)
    providers.preload_libraries.cache_clear()


def test_answers_of_a_gpu_have_tolerances_of_their_own() -> None:
    runtime = onnxruntime.OnnxRuntime()
    assert [runtime.get_tolerance(name, providers.CUDA) for name in ("fp32", "fp16", "int8")] == [1e-3, 1e-2, 5e-2]
    assert [runtime.get_tolerance(name, providers.CPU) for name in ("fp32", "fp16", "int8")] == [1e-3] * 3


class Attention(nn.Module):
    """Attention as PyTorch exports that of its transformers, with a scale on both of its products' operands."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attended: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return attended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning", "ignore:.*:UserWarning")
def test_attention_in_half_precision_opens_on_a_cpu(tmp_path: Path) -> None:
    """One of ONNX Runtime's optimizers would end the process, so the session is opened in another one."""
    file = tmp_path / "model.onnx"
    shapes = ({0: "batch"},)
    torch.onnx.export(Attention().eval(), (torch.randn(4, 6, 32),), file, dynamo=True, opset_version=20, dynamic_shapes=shapes)
    model = prepare_graph(file)
    convert_to_fp16(model, {node.name for node in model.graph.node})
    onnx.save(clear_metadata(model), file)
    code = "import sys; from pathlib import Path; from attar.engines.runtimes.onnxruntime import open_session"
    opened = f"{code}\nwith open_session({{'model': Path(sys.argv[1])}}, 1, precision='fp16'): print('opened')"
    done = subprocess.run([sys.executable, "-c", opened, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "opened\n"), done.stderr

"""Where Q-DQ pairs stand for each runtime, from one calibration; TensorRT-RTX itself parses and builds what is meant for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from attar.models.tasks.digits import Digits
from attar.models.views import clean
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.optimize import Optimize
from attar.stages.precision.placement import MULTIPLYING, PLACEMENTS
from attar.stages.precision.selection import data
from tests import smoke


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges) -> OnnxModel:
    return optimized(tmp_path_factory.mktemp("symmetric"), digits_onnx, digits_ranges, precision="int8", runtime="tensorrt")


def optimized(out: Path, model: OnnxModel, ranges: Ranges, **settings: Any) -> OnnxModel:
    out.mkdir(exist_ok=True)
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": ranges}
    return smoke.artifact(OnnxModel, out, Optimize(task=smoke.DIGITS, **settings).run(out, onnx=model, **given))


def test_the_form_that_tensorrt_takes(symmetric: OnnxModel) -> None:
    """s8 throughout, zero points of 0, a float bias, int8 weights; pairs before what multiplies and none behind it."""
    graph = onnx.load(symmetric.file()).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(constants[node.input[2]].any() for node in pairs)
    makers = {node.output[0]: node for node in graph.node}
    int8 = [node for node in graph.node if node.op_type in MULTIPLYING and node.input[0] in makers]
    int8 = [node for node in int8 if makers[node.input[0]].op_type == "DequantizeLinear"]
    assert len(int8) == symmetric.facts["quantized"]["Conv"] == 8
    assert {constants[node.input[2]].dtype for node in int8} == {np.dtype(np.float32)}
    results = {node.output[0] for node in int8}
    assert not results & {node.input[0] for node in pairs}
    assert symmetric.facts["placement"] == "symmetric"


def test_both_forms_keep_the_answers(tmp_path: Path, symmetric: OnnxModel, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    unsigned = optimized(tmp_path, digits_onnx, digits_ranges, precision="int8", runtime="openvino")
    assert unsigned.file().read_bytes() != symmetric.file().read_bytes()
    inputs = next(clean(Digits(), Digits().split("validation"))).inputs
    found = []
    for model in (digits_onnx, symmetric, unsigned):
        with model.open(threads=1) as predict:
            logits = smoke.floats(predict(inputs)["logits"])
        found.append((logits - logits.mean(1, keepdims=True)).ravel())
    for rounded in found[1:]:
        assert 0.995 < np.corrcoef(found[0], rounded)[0, 1] < 1 - 1e-9


@pytest.mark.parametrize("asked", [{"precision": "int8"}, {"precision": "fp16"}], ids=lambda asked: asked["precision"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, asked: dict[str, Any]) -> None:
    made = optimized(tmp_path / "out", digits_onnx, digits_ranges, runtime="tensorrt-rtx", **asked)
    assert built(made.file(), (1, 8, 8)) > 1000


def test_tensorrt_rtx_builds_nodes_in_half_between_others_in_int8(
    tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges
) -> None:
    from attar.stages.precision import int8

    convolutions = [node.name for node in onnx.load(digits_onnx.file()).graph.node if node.op_type == "Conv"][2:4]
    excluded = dict.fromkeys(convolutions, "sensitive")
    form = int8.Form(PLACEMENTS["tensorrt-rtx"], exclude=excluded, half=frozenset(convolutions))
    facts = int8.quantize(digits_onnx.file(), tmp_path / "mixed.onnx", digits_ranges.of(), form)
    assert facts["half"] == excluded
    assert facts["quantized"]["Conv"] == 6
    assert built(tmp_path / "mixed.onnx", (1, 8, 8)) > 1000


def built(file: Path, sample: tuple[int, ...]) -> int:
    """Bytes of an engine for Ada, which needs no GPU to be built."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse_from_file(str(file))
    errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    del parser  # a network that changes under its parser crashes the process
    assert parsed, errors
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile.set_shape(network.get_input(0).name, (1, *sample), (4, *sample), (8, *sample))
    config.add_optimization_profile(profile)
    return int(builder.build_serialized_network(network, config).nbytes)


def test_runtimes_of_one_family_share_a_key() -> None:
    """What runs a graph counts only where it decides how that is written."""

    def deciders(**settings: Any) -> dict[str, Any]:
        stage = Optimize(task=smoke.DIGITS, **settings)
        return stage.model_dump(include=set(stage.deciding()))

    both = [deciders(precision="int8", runtime=runtime) for runtime in PLACEMENTS]
    assert both[0] == both[1] != both[2] == both[3]
    assert both[0] == {
        "precision": "int8",
        "placement": "unsigned",
        "exclude": (),
        "per_channel": True,
        "range_method": "minmax",
    }
    assert {str(deciders(precision="fp16", runtime=runtime)) for runtime in PLACEMENTS} == {str(deciders(precision="fp16"))}
    assert deciders(precision="fp32", runtime="tensorrt", per_channel=False) == {"precision": "fp32"}


def test_bf16_is_the_float_graph_for_openvino(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    made = optimized(tmp_path, digits_onnx, digits_ranges, precision="bf16", runtime="openvino")
    assert made.file().read_bytes() == digits_onnx.file().read_bytes()
    assert made.facts["precision"] == "bf16"
    assert Optimize(task=smoke.DIGITS, precision="bf16", runtime="openvino").reading() == {"onnx"}


@pytest.mark.parametrize(
    ("precision", "runtime", "having"),
    [
        ("bf16", "onnxruntime", "openvino alone"),
        ("bf16", "tensorrt", "openvino alone"),
        ("int8-dynamic", "tensorrt-rtx", "onnxruntime and openvino alone"),
    ],
)
def test_a_precision_that_a_runtime_does_not_have(precision: Any, runtime: Any, having: str) -> None:
    with pytest.raises(ValidationError, match=f"runtime '{runtime}' has no precision '{precision}', {having}; use another"):
        Optimize(task=smoke.DIGITS, precision=precision, runtime=runtime)


def test_what_is_rounded_for_a_node() -> None:
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"])
    assert data(node) == ["x", "w", "y"]
    assert data(node, results=False) == ["x", "w"]

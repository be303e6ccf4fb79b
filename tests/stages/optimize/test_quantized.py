"""The trainable graph is the shipped graph: the same answers, the same rounding, the same names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines import cpu
from attar.engines.calibration.histogram import Histogram
from attar.engines.graphs import int8
from attar.engines.graphs.exposure import reveal_tensors
from attar.engines.graphs.placement import LEVELS
from attar.engines.graphs.preparation import prepare_graph
from attar.engines.runtimes import onnxruntime
from attar.models.tasks.digits import Digits
from attar.models.views import iterate_clean
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import count_values
from attar.stages.optimize.quantized import FloatWeight, QuantizedBias, QuantizedNetwork, QuantizedWeight
from tests.support.tasks import smoke

Arrays = Mapping[str, npt.NDArray[Any]]


def network(source: Path, quantized: Path, bits: int = 8) -> QuantizedNetwork:
    tensors = prepare_graph(source).graph.initializer
    originals = {each.name: onnx.numpy_helper.to_array(each) for each in tensors}
    return QuantizedNetwork(onnx.load(quantized), originals, LEVELS[bits])


def answers(file: Path, inputs: Any, name: str, *, optimize: bool) -> npt.NDArray[np.float64]:
    with onnxruntime.open_session({"model": file}, 1, optimize=optimize) as predict:
        return smoke.floats(predict(inputs)[name])


def made(folder: Path, model: onnx.ModelProto, x: npt.NDArray[np.float32], per_channel: bool, bits: int = 8) -> tuple[Path, Path]:
    """The float graph and its Q-DQ graph, with the ranges that it has on ``x``."""
    source, quantized = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    histograms: dict[str, Histogram] = {}
    with onnxruntime.open_session({"model": reveal_tensors(source)}, 1, optimize=False) as predict:
        count_values(histograms, {"x": x, **predict({"x": x})})
    ranges = {name: (each.low, each.high) for name, each in histograms.items()}
    int8.write_int8_graph(source, quantized, ranges, int8.QuantizationSpec(per_channel=per_channel, weight_bits=bits))
    return source, quantized


def convolutions(seed: int, channels: int, separable: bool, relu: bool) -> onnx.ModelProto:
    """``y = conv(relu(conv(x) + conv(x)))`` with a depthwise middle or a dense one, and biases."""
    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array((random.standard_normal(shape) * 0.4).astype(np.float32), name)

    groups = channels if separable else 1
    middle = "r = Relu(s)" if relu else "r = Identity(s)"
    model: onnx.ModelProto = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,4,7,7] x) => (float[batch,3,h,w] y) {{
            a = Conv<pads = [1, 1, 1, 1]>(x, first, bias)
            b = Conv(x, side)
            s = Add(a, b)
            {middle}
            m = Conv<group = {groups}, strides = [2, 2]>(r, middle, bias2)
            y = Conv(m, last)
        }}""")
    model.graph.initializer.extend(
        [
            tensor("first", channels, 4, 3, 3),
            tensor("bias", channels),
            tensor("side", channels, 4, 1, 1),
            tensor("middle", channels, channels // groups, 3, 3),
            tensor("bias2", channels),
            tensor("last", 3, channels, 1, 1),
        ]
    )
    return model


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(2, 9),
    separable=st.booleans(),
    relu=st.booleans(),
    per_channel=st.booleans(),
    bits=st.sampled_from(sorted(LEVELS)),
)
def test_random_graphs_answer_alike(
    tmp_path_factory: pytest.TempPathFactory, seed: int, channels: int, separable: bool, relu: bool, per_channel: bool, bits: int
) -> None:
    """As they are written and with integer kernels that do not saturate: a sum near a half may go to the other side."""
    x = np.random.default_rng(seed).standard_normal((6, 4, 7, 7)).astype(np.float32)
    source, quantized = made(tmp_path_factory.mktemp("g"), convolutions(seed, channels, separable, relu), x, per_channel, bits)
    module = network(source, quantized, bits)
    with torch.no_grad():
        got = smoke.floats(module(torch.from_numpy(x)).numpy())
    step = float(module.get_constant("y_scale"))
    for optimize in kernels(bits):
        steps = np.abs(got - answers(quantized, {"x": x}, "y", optimize=optimize)) / step
        assert steps.max() < 2.01
        assert np.mean(steps > 0.01) < 0.05


def kernels(bits: int) -> list[bool]:
    """Whether to answer as a graph is written, and with integer kernels where they add up what they should."""
    return [False] if bits == 8 and cpu.has_saturating_int8() else [False, True]


def integers(module: QuantizedNetwork, graph: onnx.ModelProto) -> None:
    """Every weight is on the integers that the quantizer wrote, times its scales."""
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    names = {id(value): name for name, value in module.parameters_of.items()}
    for weight in module.weights:
        name = names[id(weight.value)]
        if isinstance(weight, QuantizedWeight):
            levels = (weight() / weight.scale(weight.least)).detach().numpy()
            np.testing.assert_allclose(levels, stored[f"{name}_quantized"], atol=1e-4)
            np.testing.assert_array_equal(weight.scale(weight.least).numpy().ravel(), stored[f"{name}_scale"].ravel())
        elif isinstance(weight, QuantizedBias):
            np.testing.assert_allclose(
                (weight() / weight.scale).detach().numpy(), stored[f"{name}_quantized"], rtol=1e-6, atol=0.01
            )
        else:
            np.testing.assert_array_equal(weight().detach().numpy(), stored[name])


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", LEVELS)
def test_digits(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, per_channel: bool, bits: int) -> None:
    ranges = json.loads((digits_ranges.root / "ranges.json").read_text())
    int8.write_int8_graph(
        digits_onnx.file(), tmp_path / "int8.onnx", ranges, int8.QuantizationSpec(per_channel=per_channel, weight_bits=bits)
    )
    module = network(digits_onnx.file(), tmp_path / "int8.onnx", bits)
    kinds = [type(weight) for weight in module.weights]
    assert (kinds.count(QuantizedWeight), kinds.count(QuantizedBias)) == (8, 8)
    assert kinds.count(FloatWeight) == 4  # the stem and the head stay float, and are trained too
    integers(module, onnx.load(tmp_path / "int8.onnx"))
    inputs = next(iterate_clean(Digits(), Digits().split("validation"))).inputs
    with torch.no_grad():
        got = smoke.floats(module(torch.from_numpy(np.asarray(inputs["image"]))).numpy())
    for optimize in kernels(bits):
        expected = answers(tmp_path / "int8.onnx", inputs, "logits", optimize=optimize)
        assert np.abs(got - expected).max() < 0.05 * expected.std()
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize(("bits", "levels"), [(8, 127), (7, 64)])
def test_a_channel_whose_bias_would_leave_int32_keeps_the_larger_scale(tmp_path: Path, bits: int, levels: int) -> None:
    model = convolutions(0, 4, separable=False, relu=True)
    for tensor in model.graph.initializer:
        if tensor.name == "middle":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0], values[1] = values[0] * 1e-8, 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, "middle"))
    x = np.random.default_rng(0).standard_normal((6, 4, 7, 7)).astype(np.float32)
    source, quantized = made(tmp_path, model, x, per_channel=True, bits=bits)
    module = network(source, quantized, bits)
    integers(module, onnx.load(quantized))
    weight = next(
        each for each in module.weights if isinstance(each, QuantizedWeight) and each.value is module.parameters_of["middle"]
    )
    assert [bool(each) for each in weight.least.ravel()] == [True, False, False, False]
    with torch.no_grad():
        weight.value[0] = levels * float(weight.least[0]) * 2  # grown: its own scale is the larger one now
    assert weight.scale(weight.least)[0].item() == pytest.approx(2 * float(weight.least[0]))


def test_weights_that_two_nodes_share_are_one_parameter(tmp_path: Path) -> None:
    model = convolutions(0, 4, separable=False, relu=True)
    for node in model.graph.node:
        if "side" in node.input:
            node.input[1] = "last_again"
    shared = next(each for each in model.graph.initializer if each.name == "side")
    shared.name = "last_again"
    again = model.graph.node.add()
    again.CopyFrom(onnx.helper.make_node("Conv", ["x", "last_again"], ["b2"], name="again"))
    model.graph.node.insert(2, again)
    del model.graph.node[-1]
    next(node for node in model.graph.node if node.op_type == "Add").input[0] = "b2"
    x = np.random.default_rng(0).standard_normal((6, 4, 7, 7)).astype(np.float32)
    module = network(*made(tmp_path, model, x, per_channel=True))
    assert len({id(weight.value) for weight in module.weights}) == len(list(module.parameters())) == len(module.parameters_of)
    assert module.export_weights().keys() == module.parameters_of.keys()


def test_gradients_reach_all_that_is_trained_and_nothing_else(
    tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges
) -> None:
    ranges = json.loads((digits_ranges.root / "ranges.json").read_text())
    int8.write_int8_graph(digits_onnx.file(), tmp_path / "int8.onnx", ranges, int8.QuantizationSpec())
    module = network(digits_onnx.file(), tmp_path / "int8.onnx")
    module(torch.randn(16, 1, 8, 8)).square().sum().backward()
    found = dict(module.named_parameters())
    assert len(found) == 20
    for name, parameter in found.items():
        assert re.fullmatch(r"weights\.\d+\.value", name)
        assert parameter.grad is not None
        assert math.isfinite(parameter.grad.abs().sum().item())
        assert parameter.grad.any()
    assert module.state_dict().keys() == found.keys()  # a checkpoint holds the weights alone


TIED = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,8] x) => (float[batch,8] y) {
        a = MatMul(x, w)
        c = Gemm<transB = 1>(a, w)
        d = Relu(c)
        e = Mul(d, w)
        y = Relu(e)
    }"""


def test_a_tied_weight_is_trained_as_one_and_rounded_for_each_reader(tmp_path: Path) -> None:
    """Its copies in the Q-DQ graph too; and what reads it in float has the new one."""
    random = np.random.default_rng(0)
    model, x = onnx.parser.parse_model(TIED), random.standard_normal((8, 8)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32), "w"))
    source, quantized, ranges = tmp_path / "float.onnx", tmp_path / "int8.onnx", dict.fromkeys("xacdey", (-20.0, 20.0))
    onnx.save(model, source)
    int8.write_int8_graph(source, quantized, ranges, int8.QuantizationSpec())
    module = network(source, quantized)
    assert set(module.export_weights()) == {"w"}
    with torch.no_grad():
        module.parameters_of["w"].mul_(torch.from_numpy(random.uniform(0.8, 1, (8, 8)).astype(np.float32)))
        got = smoke.floats(module(torch.from_numpy(x)).numpy())
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(module.export_weights()["w"], "w"))
    onnx.save(model, source)
    int8.write_int8_graph(source, quantized, ranges, int8.QuantizationSpec())
    np.testing.assert_allclose(got, answers(quantized, {"x": x}, "y", optimize=False), atol=1e-4)


def test_two_outputs_are_a_tuple() -> None:
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,3] x) => (float[batch,3] a, float[batch,3] b) { a = Relu(x)  b = Add(a, x) }""")
    a, b = QuantizedNetwork(model, {})(torch.tensor([[-1.0, 0.0, 2.0]]))
    assert (a.tolist(), b.tolist()) == ([[0, 0, 2]], [[-1, 0, 4]])

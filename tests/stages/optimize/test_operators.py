"""Each operator gives what ONNX Runtime gives, or is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from attar.engines.runtimes import onnxruntime
from attar.pipeline.core.errors import StageError
from attar.stages.optimize.operators import OPERATORS, OperatorCall, fake_quantize, shape_along
from attar.stages.optimize.quantized import QuantizedNetwork
from tests.support.tasks import smoke

WEIGHTS = ", ".join(f"{math.sin(7 * n) / 2:.3f}" for n in range(216))
CONSTANTS = f"""<
    float[6,4,3,3] kernel = {{{WEIGHTS}}}, float[4,2,3,3] grouped = {{{", ".join(WEIGHTS.split(", ")[:72])}}},
    float[6] bias = {{1, -1, 2, 0.5, 0, 3}}, float[4] four = {{1, -0.5, 2, 0.1}}, float[4] positive = {{1, 0.5, 2, 0.1}},
    float[5,7] matrix = {{{", ".join(WEIGHTS.split(", ")[:35])}}}, float[7,5] turned = {{{", ".join(WEIGHTS.split(", ")[:35])}}},
    float[5] five = {{1, 0, -1, 2, 0.2}}, float[7] seven = {{1, 0, -1, 2, 0.2, 3, 1}},
    float low = {{-0.5}}, float high = {{0.7}}, float step = {{0.05}}, uint8 middle = {{131}}, int8 zero = {{0}},
    int8[4] levels = {{-127, 3, 0, 90}}, float[4] steps = {{0.1, 0.2, 0.05, 0.4}}, int8[4] zeros = {{0, 0, 0, 0}},
    int64[1] one = {{1}}, int64[2] image = {{-1, 2}}, int64[2] behind = {{1, 2}},
    int64[3] shape = {{0, -1, 5}}, int64[3] plain = {{4, 2, -1}}
>"""
SAME = [  # x is (2, 4, 6, 5)
    "y = Add(x, low)",
    "y = Sub(low, x)",
    "y = Mul(x, x)",
    "y = Div(x, low)",
    "y = Relu(x)",
    "y = Sigmoid(x)",
    "y = Tanh(x)",
    "y = Gelu(x)",
    'y = Gelu<approximate = "tanh">(x)',
    "y = Identity(x)",
    "y = Clip(x, low, high)",
    "y = Clip(x, , high)",
    "y = Clip(x)",
    "y = Softmax(x)",
    "y = Softmax<axis = 1>(x)",
    "y = Concat<axis = 1>(x, x, x)",
    "y = Transpose<perm = [0, 2, 3, 1]>(x)",
    "y = Transpose(x)",
    "y = Flatten(x)",
    "y = Flatten<axis = 2>(x)",
    "y = Flatten<axis = 0>(x)",
    "y = Reshape(x, shape)",
    "y = Reshape<allowzero = 1>(x, plain)",
    "y = Unsqueeze(x, one)",
    "z = Unsqueeze(x, one)  y = Squeeze(z, one)",
    "z = GlobalAveragePool(x)  y = Squeeze(z)",
    "y = Unsqueeze(x, image)",
    "y = GlobalAveragePool(x)",
    "y = ReduceMean(x, image)",
    "y = ReduceMean<keepdims = 0>(x, one)",
    "y = ReduceMean(x)",
    "y = ReduceMean<noop_with_empty_axes = 1>(x)",
    "y = MaxPool<kernel_shape = [3, 2], strides = [2, 1], pads = [1, 1, 1, 1]>(x)",
    "y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)",
    "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
    "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1, strides = [2, 2]>(x)",
    "y = Conv(x, kernel, bias)",
    "y = Conv<pads = [1, 1, 1, 1], strides = [2, 1], dilations = [1, 2]>(x, kernel)",
    "y = Conv<group = 2>(x, grouped)",
    "y = BatchNormalization<epsilon = 0.01>(x, four, four, four, positive)",
    "y = LayerNormalization<epsilon = 0.01>(x, five, five)",
    "y = MatMul(x, matrix)",
    "z = Flatten<axis = 3>(x)  y = Gemm<alpha = 0.5, beta = 2.0>(z, matrix, seven)",
    "z = Flatten<axis = 3>(x)  y = Gemm<transB = 1>(z, turned)",
    "z = Flatten<axis = 3>(x)  y = Gemm<transA = 1>(z, z)",
    "z = QuantizeLinear(x, step, middle)  y = DequantizeLinear(z, step, middle)",
    "z = QuantizeLinear(x, step, zero)  y = DequantizeLinear(z, step, zero)",
    "z = QuantizeLinear<axis = 1>(x, steps, zeros)  y = DequantizeLinear<axis = 1>(z, steps, zeros)",
    "z = DequantizeLinear<axis = 0>(levels, steps, zeros)  u = Unsqueeze(z, behind)  y = Add(x, u)",
    "z = DequantizeLinear(levels, step)  u = Unsqueeze(z, behind)  y = Add(x, u)",
]


def graph(text: str) -> onnx.ModelProto:
    """``x`` (batch, 4, 6, 5) to ``y``, with the constants that are read."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[batch,4,6,5] x) => (y) {CONSTANTS} {{ {text} }}'
    )
    read = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)
    return model


@pytest.mark.parametrize("text", SAME)
def test_as_onnx_runtime_has_it(text: str) -> None:
    model = graph(text)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 5)).astype(np.float32)
    with onnxruntime.open_session({"model": model.SerializeToString()}, 1, optimize=False) as predict:
        expected = smoke.floats(predict({"x": x})["y"])
    with torch.no_grad():
        got = QuantizedNetwork(model, {})(torch.from_numpy(x)).numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-6 * max(1, np.abs(expected).max()))


def test_every_operator_is_compared() -> None:
    compared = {node.op_type for text in SAME for node in graph(text).graph.node}
    assert compared == set(OPERATORS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y = MaxPool<kernel_shape = [2, 2], ceil_mode = 1>(x)", "ceil_mode = 1"),
        ('y = Conv<auto_pad = "SAME_UPPER">(x, kernel)', "auto_pad = 'SAME_UPPER'"),
        ("y = Conv<pads = [0, 0, 1, 1]>(x, kernel)", r"pads = \[0, 0, 1, 1\]"),
        ("y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)", r"dilations = \[2, 2\]"),
        ("y, m, v = BatchNormalization<training_mode = 1>(x, four, four, four, positive)", "3 results of BatchNormalization"),
        ("y, i = MaxPool<kernel_shape = [2, 2]>(x)", "2 results of MaxPool"),
        ("y = Ceil(x)", r"Ceil .*'odd'\) .*Known: Add"),
    ],
)
def test_what_is_not_there_is_refused(text: str, said: str) -> None:
    model = graph(text)
    model.graph.node[-1].name = "odd"
    with pytest.raises(StageError, match=said):
        QuantizedNetwork(model, {})(torch.ones(2, 4, 6, 5))


def test_fake_quantization_by_hand() -> None:
    # x / 0.5 = -2.6 -1.5 -0.5 0.5 1.5 2.6 9; half to even: -3 -2 0 0 2 3 9; clipped to [-2, 3]; times 0.5
    x = torch.tensor([-1.3, -0.75, -0.25, 0.25, 0.75, 1.3, 4.5], requires_grad=True)
    y = fake_quantize(x, torch.tensor(0.5), -2.0, 3.0)
    assert y.tolist() == [-1.0, -1.0, 0.0, 0.0, 1.0, 1.5, 1.5]
    (y * torch.arange(1.0, 8.0)).sum().backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0]  # straight through, but not where it was clipped


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_rounding_is_exact(size: float) -> None:
    x = torch.linspace(-size, size, 4001)
    step = torch.tensor(size / 100)
    np.testing.assert_array_equal(fake_quantize(x, step, -1e9, 1e9).numpy(), ((x / step).round() * step).numpy())


def test_along() -> None:
    x = torch.zeros(2, 3, 4)
    assert shape_along(torch.ones(3), -2, x).shape == (1, 3, 1)
    assert shape_along(torch.ones(1), 0, x).shape == (1,)


def test_a_refusal_names_the_node() -> None:
    attributes: dict[str, Any] = {"auto_pad": b"VALID"}
    error = OperatorCall("first", "Conv", (), (), attributes).make_refusal("auto_pad")
    assert str(error).startswith("Conv 'first' with auto_pad = 'VALID' cannot be tuned: set tuning_epochs = 0")

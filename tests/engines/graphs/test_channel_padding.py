"""Widening: the same answers to the last bit, from convolutions that ONNX Runtime's fast int8 kernel takes."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attar.engines.graphs import int8
from attar.engines.graphs.channel_padding import pad_channels, round_up_channels
from attar.engines.runtimes import onnxruntime

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((5, 8, 6, 6)).astype(np.float32)


def convolution(
    name: str, source: str, inputs: int, outputs: int, group: int = 1
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    weight = RANDOM.standard_normal((outputs, inputs // group, 3, 3)).astype(np.float32) / 6
    bias = RANDOM.standard_normal(outputs).astype(np.float32)
    node = helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [name], name=name, pads=[1, 1, 1, 1], group=group)
    return node, [numpy_helper.from_array(weight, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")]


def graph(file: Path, nodes: Sequence[Any], output: str) -> Path:
    """Of nodes and of convolutions with their weights; its input ``x`` has 8 channels."""
    made = [node if isinstance(node, onnx.NodeProto) else node[0] for node in nodes]
    tensors = [tensor for node in nodes if not isinstance(node, onnx.NodeProto) for tensor in node[1]]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 6, 6])
    answer = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph(made, "g", [image], [answer], tensors), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.save(model, file)
    return file


def counted(tensor: str) -> onnx.GraphProto:
    """What a branch of an If computes: how many numbers a tensor has."""
    nodes = [helper.make_node("Size", [tensor], ["size"]), helper.make_node("Cast", ["size"], ["count"], to=TensorProto.FLOAT)]
    return helper.make_graph(nodes, "counted", [], [helper.make_tensor_value_info("count", TensorProto.FLOAT, [])])


def residual(file: Path, channels: int = 12) -> Path:
    """Two convolutions beside a shortcut, between two others: of ``channels``, then 24."""
    relu, add = helper.make_node("Relu", ["a"], ["r"], name="relu"), helper.make_node("Add", ["r", "c"], ["s"], name="add")
    first, second = convolution("a", "x", 8, channels), convolution("b", "r", channels, channels)
    return graph(
        file, [first, relu, second, convolution("c", "b", channels, channels), add, convolution("y", "s", channels, 24)], "y"
    )


def quantized(source: Path, target: Path, per_channel: bool = True) -> Path:
    from attar.engines.graphs.exposure import reveal_tensors

    with onnxruntime.open_session({"model": reveal_tensors(source)}, 1, optimize=False) as predict:
        tensors = {"x": IMAGES, **predict({"x": IMAGES})}
    ranges = {name: (float(values.min()), float(values.max())) for name, values in tensors.items()}
    int8.write_int8_graph(
        source, target, ranges, int8.QuantizationSpec(per_channel=per_channel, weight_bits=7)
    )  # no kernel saturates
    return target


def answers(model: Path | bytes, optimize: bool = True) -> Any:
    with onnxruntime.open_session({"model": model}, 1, optimize=optimize) as predict:
        return predict({"x": IMAGES})["y"]


def weights(model: bytes) -> dict[str, tuple[int, ...]]:
    found = {tensor.name: tuple(tensor.dims) for tensor in onnx.load_from_string(model).graph.initializer}
    return {name: found[f"{name}.w_quantized"][:2] for name in ("a", "b", "c", "y")}


@pytest.fixture(autouse=True)
def x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is widened does not depend on where the tests run."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("channels", [1, 4, 12, 18])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
def test_the_same_answers_to_the_last_bit(channels: int, per_channel: bool, optimize: bool, tmp_path: Path) -> None:
    """One scale for a whole weight is one number, written with one axis or none."""
    source = quantized(residual(tmp_path / "float.onnx", channels), tmp_path / "int8.onnx", per_channel)
    made = pad_channels(source)
    assert isinstance(made, bytes)
    np.testing.assert_array_equal(answers(made, optimize), answers(source, optimize))


def test_inner_channels_become_sixteen_and_the_ends_stay(tmp_path: Path) -> None:
    made = pad_channels(quantized(residual(tmp_path / "float.onnx"), tmp_path / "int8.onnx"))
    assert isinstance(made, bytes)
    assert weights(made) == {"a": (16, 8), "b": (16, 16), "c": (16, 16), "y": (24, 16)}


def test_no_scale_is_zero(tmp_path: Path) -> None:
    made = pad_channels(quantized(residual(tmp_path / "float.onnx"), tmp_path / "int8.onnx"))
    assert isinstance(made, bytes)
    scales = [t for t in onnx.load_from_string(made).graph.initializer if t.name.endswith("_scale")]
    assert all((numpy_helper.to_array(scale) > 0).all() for scale in scales)


@pytest.mark.parametrize(("channels", "wanted"), [(1, 16), (12, 16), (16, 16), (17, 24), (20, 20), (22, 24), (24, 24)])
def test_how_wide(channels: int, wanted: int) -> None:
    assert round_up_channels(channels) == wanted


def test_a_float_graph_and_one_that_is_wide_enough_stay_as_they_are(tmp_path: Path) -> None:
    floats = residual(tmp_path / "float.onnx")
    wide = quantized(residual(tmp_path / "wide.onnx", 16), tmp_path / "int8.onnx")
    assert pad_channels(floats) is floats
    assert pad_channels(wide) is wide


def test_other_processors_have_other_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    source = quantized(residual(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    assert pad_channels(source) is source


@pytest.mark.parametrize("case", ["grouped", "output", "read otherwise", "shared weights", "repeated", "read in a branch"])
def test_channels_that_something_else_counts_stay(case: str, tmp_path: Path) -> None:
    first, second = convolution("a", "x", 8, 12), convolution("y", "a", 12, 12)
    third, total = convolution("y", "s", 12, 24), helper.make_node("Add", ["t", "n"], ["y"], name="total")
    yes = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_node("If", ["yes"], ["n"], name="if", then_branch=counted("a"), else_branch=counted("a"))
    nodes: dict[str, tuple[list[Any], str]] = {
        "grouped": ([first, convolution("d", "a", 12, 12, group=12), convolution("y", "d", 12, 24)], "y"),
        "output": ([first], "a"),
        "read otherwise": ([first, helper.make_node("Softmax", ["a"], ["s"], axis=1), convolution("y", "s", 12, 24)], "y"),
        "repeated": ([first, convolution("b", "x", 8, 1), helper.make_node("Add", ["a", "b"], ["s"], name="add"), third], "y"),
        "read in a branch": ([first, (branch, [yes]), convolution("t", "a", 12, 24), total], "y"),
        "shared weights": ([first, second, helper.make_node("Conv", ["y", "y.w"], ["z"], name="z", pads=[1] * 4)], "z"),
    }
    source = quantized(graph(tmp_path / "float.onnx", *nodes[case]), tmp_path / "int8.onnx")
    assert pad_channels(source) is source


def test_weights_whose_zero_is_another_number_stay(tmp_path: Path) -> None:
    """Zeros behind them would not be zero, neither where a channel is made nor where it is read."""
    model = onnx.load(quantized(residual(tmp_path / "float.onnx"), tmp_path / "int8.onnx", per_channel=False))
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".w_zero_point"):
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, 3, np.int8), tensor.name))
    onnx.save(model, tmp_path / "asymmetric.onnx")
    made = pad_channels(tmp_path / "asymmetric.onnx")
    np.testing.assert_array_equal(answers(made, optimize=False), answers(tmp_path / "asymmetric.onnx", optimize=False))
    assert made == tmp_path / "asymmetric.onnx"


def test_engines_are_widened_when_they_are_built(tmp_path: Path) -> None:
    from attar.engines.runtimes.runtime import BuildSpec

    source = quantized(residual(tmp_path / "float.onnx"), tmp_path / "int8.onnx")
    onnxruntime.OnnxRuntime().build(source, tmp_path / "engine.onnx", BuildSpec())
    shapes = {tuple(tensor.dims) for tensor in onnx.load(tmp_path / "engine.onnx").graph.initializer}
    assert (16, 16, 3, 3) in shapes
    np.testing.assert_array_equal(answers(tmp_path / "engine.onnx", optimize=False), answers(source))

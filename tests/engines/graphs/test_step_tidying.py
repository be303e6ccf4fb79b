"""A step without needless copies gives the same numbers, bit by bit."""

from __future__ import annotations

import numpy as np
import onnx

from attar.engines.graphs.inspection import index_constants
from attar.engines.graphs.step_tidying import (
    copies_leading,
    drop_moves_of_one,
    hoist_scales,
    keeps_order,
    squeeze_selections,
)
from attar.engines.runtimes.onnxruntime import open_session

GRAPH = """
    <ir_version: 10, opset_import: ["" : 20]>
    step (float[batch,1,6] x, float[batch,4,6] many) => (float[batch,6] logits, float[batch,6] second,
                                                         float[batch,2,1,3] queries)
    <int64 none = {0}, int64 one = {1}, float scale = {0.3}, int64[4] heads = {0, 0, 2, 3}> {
        logits = Gather<axis = 1>(x, none)
        second = Gather<axis = 1>(many, one)
        split = Reshape(x, heads)
        turned = Transpose<perm = [0, 2, 1, 3]>(split)
        queries = Mul(turned, scale)
    }"""


def run_model(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((3, 1, 6)), "many": rng.standard_normal((3, 4, 6))}
    with open_session({"model": model.SerializeToString()}, threads=1, optimize=False) as predict:
        return predict({name: array.astype(np.float32) for name, array in inputs.items()})


def test_only_positions_are_squeezed_and_scales_come_first() -> None:
    model = onnx.parser.parse_model(GRAPH)
    before = run_model(model)
    assert squeeze_selections(model) == 1  # `many` has four positions
    assert hoist_scales(model) == 1
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Squeeze", "Gather", "Mul", "Reshape", "Transpose"]
    after = run_model(model)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected)


def test_a_scale_stays_where_what_it_scales_is_read_elsewhere() -> None:
    model = onnx.parser.parse_model(GRAPH)
    model.graph.output.append(onnx.helper.make_tensor_value_info("turned", onnx.TensorProto.FLOAT, []))
    assert hoist_scales(model) == 0


def test_a_scale_that_is_computed_stays() -> None:
    model = onnx.parser.parse_model(GRAPH)
    scale = index_constants(model)["scale"]
    model.graph.initializer.remove(scale)
    model.graph.input.append(onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, []))
    assert hoist_scales(model) == 0


MOVES = """
    <ir_version: 10, opset_import: ["" : 20]>
    step (float[batch,1,6] x, float[batch,4,6] many) => (float[batch,2,1,3] before, float[batch,1,6] after,
                                                         float[batch,2,4,3] real)
    <int64[4] heads = {0, 0, 2, 3}, int64[4] counted = {-1, 1, 2, 3}, int64[3] joined = {0, 1, -1}> {
        split = Reshape<allowzero = 1>(x, counted)
        before = Transpose<perm = [0, 2, 1, 3]>(split)
        turned = Transpose<perm = [0, 2, 1, 3]>(before)
        after = Reshape(turned, joined)
        several = Reshape(many, heads)
        real = Transpose<perm = [0, 2, 1, 3]>(several)
    }"""


def test_only_axes_of_one_position_move_for_nothing() -> None:
    model = onnx.parser.parse_model(MOVES)
    expected = run_model(model)
    assert drop_moves_of_one(model) == 2
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Reshape", "Reshape", "Reshape", "Transpose"]
    got = run_model(model)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
    assert not keeps_order([0, 2, 1, 3], [0, 0, 2, 3])  # 0 is an unknown size
    assert not copies_leading(model.graph.node[2], [0, 2, 1, 3], index_constants(model))

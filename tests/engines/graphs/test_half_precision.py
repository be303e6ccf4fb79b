"""Half precision: where casts stand, by hand; and that any choice of nodes gives a graph that computes nearly the same."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines.graphs.half_precision import convert_to_fp16, round_half_results
from attar.engines.graphs.overflow import find_largest_magnitude, find_overflowing_nodes
from attar.engines.graphs.preparation import name_nodes
from attar.engines.runtimes import onnxruntime
from tests.support.tasks import smoke

HEADER = '<ir_version: 9, opset_import: ["" : 20]>'
CHAIN = f"""{HEADER}
    chain (float[batch,2] x) => (float[batch,2] y) <float[2,2] w = {{1, 2, 3, 4}}, float[2] b = {{0.5, 0.25}}> {{
        a = MatMul(x, w)
        c = Add(a, b)
        d = Relu(c)
        y = Mul(d, b)
    }}"""
NAMES = ("MatMul_0", "Add_1", "Relu_2", "Mul_3")
BRANCH = f"""{HEADER}
    branch (float[2] x, bool test) => (float[2] y) {{
        a = Neg(x)
        y = If (test) <
            then_branch = yes () => (float[2] p) {{ p = Relu(a) }},
            else_branch = no () => (float[2] q) {{ q = Identity(a) }}
        >
    }}"""
SHAPES = f"""{HEADER}
    shapes (float[batch,3] x, int64[2] k) => (float[batch,3] y) <float[1] s = {{2}}> {{
        n = Shape(x)
        z = ConstantOfShape(n)
        f = Cast<to=1>(k)
        m = ReduceMax<keepdims=1>(f)
        o = Add(x, z)
        r = Mul(o, m)
        y = Mul(r, s)
    }}"""


def made(text: str, wanted: Collection[str] | None = None) -> tuple[onnx.ModelProto, set[str]]:
    """The graph with these nodes halved, all if none are named."""
    model = onnx.parser.parse_model(text)
    name_nodes(model)
    done = convert_to_fp16(model, {node.name for node in model.graph.node} if wanted is None else wanted)
    onnx.checker.check_model(model, full_check=True)
    return model, done


def answered(model: onnx.ModelProto, **inputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    exact = round_half_results(onnx.ModelProto.FromString(model.SerializeToString()))
    with onnxruntime.open_session({"model": exact.SerializeToString()}, 1, optimize=False) as predict:
        return smoke.floats(predict(inputs)["y"])


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_casts_stand_at_the_edges_alone() -> None:
    model, done = made(CHAIN)
    assert operators(model) == ["Cast", "MatMul", "Add", "Relu", "Mul", "Cast"]
    assert done == set(NAMES)
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer} == dict.fromkeys(
        ["w_half", "b_half"], onnx.TensorProto.FLOAT16
    )
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_an_island_hands_its_tensors_on_in_float() -> None:
    """Between two nodes of an island there is no cast, so nothing overflows there; a weight that both read is there twice."""
    model, _ = made(CHAIN, {"MatMul_0", "Mul_3"})
    assert operators(model) == ["Cast", "MatMul", "Cast", "Add", "Relu", "Cast", "Mul", "Cast"]
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["b", "b_half", "w_half"]
    x = np.array([[4e4, 0]], np.float32)
    assert answered(made(CHAIN, {"Mul_3"})[0], x=x).tolist() == [[2e4, np.inf]]  # 80000 is made in float, and read in half
    assert answered(made(CHAIN, {"MatMul_0"})[0], x=x).tolist() == [[20000.25, np.inf]]  # and made in half
    assert answered(made(CHAIN, set())[0], x=x).tolist() == [[20000.25, 20000.0625]]


@settings(max_examples=16, deadline=None)
@given(st.sets(st.sampled_from(NAMES)))
def test_any_choice_computes_nearly_the_same(chosen: set[str]) -> None:
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    model, done = made(CHAIN, chosen)
    assert done == chosen
    np.testing.assert_allclose(answered(model, x=x), answered(made(CHAIN, set())[0], x=x), atol=5e-3, rtol=2e-3)


def test_what_a_branch_reads_is_there_in_float() -> None:
    model, done = made(BRANCH)
    assert done == {"Neg_0"}  # a node with graphs inside stays as it is
    x = np.array([-3, 3], np.float32)
    assert answered(model, x=x, test=np.array(True)).tolist() == [3, 0]
    assert answered(model, x=x, test=np.array(False)).tolist() == [3, -3]


def test_integers_stay_and_what_makes_floats_of_them_too() -> None:
    """``Shape`` reads floats and gives integers; ``Cast`` and ``ConstantOfShape`` give what an attribute says."""
    model, done = made(SHAPES)
    assert done == {"ReduceMax_3", "Add_4", "Mul_5", "Mul_6"}
    x = np.ones((4, 3), np.float32)
    assert answered(model, x=x, k=np.array([2, 5])).tolist() == (10 * x).tolist()


def test_what_is_not_in_the_operators_own_list_stays() -> None:
    """A domain of its own, and an operator without a half form."""
    text = CHAIN.replace('["" : 20]', '["" : 20, "com.microsoft" : 1]').replace("Relu(c)", "com.microsoft.Gelu(c)")
    model = onnx.parser.parse_model(text)
    name_nodes(model)
    assert convert_to_fp16(model, {node.name for node in model.graph.node}) == {
        "MatMul_0",
        "Add_1",
    }  # the type of what follows is unknown
    assert np.isfinite(answered(model, x=np.ones((1, 2), np.float32))).all()


def test_constants_that_are_nodes_become_weights() -> None:
    text = f"""{HEADER} c (float[2] x) => (float[2] y) {{ k = Constant<value = float[2] {{3, 4}}>()  y = Mul(x, k) }}"""
    model, _ = made(text)
    assert operators(model) == ["Cast", "Mul", "Cast"]
    assert answered(model, x=np.ones(2, np.float32)).tolist() == [3, 4]


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    text = f"""{HEADER}
        taken (float[2] a_half) => (float[2] y) {{
            a = Neg(a_half)
            a_half_exact = Exp(a)
            y = Add(a_half_exact, a_half)
        }}"""
    model, done = made(text)
    assert done == {"Neg_0", "Exp_1", "Add_2"}
    assert "a__half" in {name for node in model.graph.node for name in node.output}
    x = np.array([0.5, -1], np.float32)
    np.testing.assert_allclose(answered(model, a_half=x), np.exp(-x) + x, rtol=2e-3)


def test_what_half_precision_cannot_hold() -> None:
    """Half of 65504, as validation may reach further than training; its root where squares are added up; weights as well."""
    model = onnx.parser.parse_model(
        f"""{HEADER}
        wide (float[batch,2] x) => (float[batch,2] y) <float[2] w = {{1, 40000}}, float[2] s = {{1, 1}}, float[2] i = {{0, 0}}> {{
            a = Neg(x)
            b = LayerNormalization(a, s)
            c = Mul(b, w)
            d = Add(c, i)
            y = Relu(d)
        }}"""
    )
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(np.array([-np.inf, 0], np.float32), "i"))
    name_nodes(model)
    found = find_overflowing_nodes(
        model, {"x": (-100, 100), "a": (-200, 100), "b": (-2, 2), "c": (-3, 3), "d": (-4e4, 0), "y": (0, 0)}
    )
    assert found == {
        "LayerNormalization_1": "'a' reaches 200",
        "Mul_2": "'w' reaches 4e+04",
        "Add_3": "'d' reaches 4e+04",
        "Relu_4": "'d' reaches 4e+04",
    }
    assert find_overflowing_nodes(model, {"a": (-180, 0)}).keys() == {"Mul_2"}  # 180 squared is 32400, less than 32752


@pytest.mark.parametrize(("values", "expected"), [([-3.0, 2.0, np.inf], 3.0), ([np.nan], 0.0), ([], 0.0)])
def test_the_largest_finite_magnitude(values: list[float], expected: float) -> None:
    assert find_largest_magnitude(np.array(values, np.float32)) == expected
    assert find_largest_magnitude(np.array([7])) == 0.0  # integers stay integers

"""Products of one tensor become one product, with the same results."""

from __future__ import annotations

import numpy as np
import onnx

from attar.engines.graphs.merged_products import merge_products
from attar.engines.graphs.preparation import remove_unread_weights
from attar.engines.runtimes.onnxruntime import open_session

WIDTHS = {"q": 4, "k": 3, "v": 5, "w": 6, "shared": 7}
GRAPH = """
    <ir_version: 10, opset_import: ["" : 20]>
    three (float[batch,S,8] x) => (float[batch,S,4] a, float[batch,S,3] b, float[batch,S,5] c, float[batch,S,6] d,
                                   float[batch,S,7] e, float[batch,S,7] f) {
        first = MatMul(x, q)   a = Add(first, q_bias)
        second = MatMul(x, k)  b = Add(k_bias, second)
        c = MatMul(x, v)
        y = Relu(x)
        d = MatMul(y, w)
        third = MatMul(x, shared)  e = Add(third, shared_bias)
        f = MatMul(y, shared)
    }"""


def build_model() -> onnx.ModelProto:
    """Two products with a bias and one without read `x`; the weight `shared` is read twice."""
    model, rng = onnx.parser.parse_model(GRAPH), np.random.default_rng(0)
    for name, width in WIDTHS.items():
        values = {name: rng.standard_normal((8, width)), f"{name}_bias": rng.standard_normal(width)}
        for called, value in values.items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), called))
    return model


def test_products_with_a_bias_become_one_and_the_others_stay() -> None:
    model = build_model()
    assert merge_products(model) == 2  # a and b; c has no bias, and the weight of e is read twice
    remove_unread_weights(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node].count("MatMul") == 5
    names = {tensor.name for tensor in model.graph.initializer}
    assert not names & {"q", "k", "q_bias", "k_bias"}
    assert names >= {"v", "w", "shared"}
    x = {"x": np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32)}
    graphs = {"before": build_model().SerializeToString(), "after": model.SerializeToString()}
    with open_session(graphs, threads=1) as opened:
        before, after = (opened.graphs[name](x) for name in graphs)
    for name, expected in before.items():
        got, sums = np.asarray(after[name], np.float32), np.asarray(expected, np.float32)
        np.testing.assert_allclose(got, sums, rtol=1e-6, atol=1e-6)


def test_a_result_that_is_an_output_and_read_as_a_sum_keeps_its_name() -> None:
    """The product itself is an output: its bias is not taken in."""
    model = build_model()
    first = onnx.helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, ["batch", "S", 4])
    model.graph.output.append(first)
    assert merge_products(model) == 2  # now `first` and `c`, both without a bias
    onnx.checker.check_model(model, full_check=True)
    split = next(node for node in model.graph.node if node.op_type == "Split")
    assert list(split.output) == ["first", "c"]

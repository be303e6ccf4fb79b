"""The form in which every pass takes a float graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from attar.engines.graphs.preparation import prepare_graph


def test_a_weight_that_was_transposed_stays_in_one_form_alone(tmp_path: Path) -> None:
    """Half precision would keep a copy in float that nothing reads."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[1,3] x) => (float[1,2] y) <float[2,3] w = {1, 2, 3, 4, 5, 6}> {
            turned = Transpose(w)
            y = MatMul(x, turned)
        }""")
    onnx.save(model, tmp_path / "model.onnx")
    (weight,) = prepare_graph(tmp_path / "model.onnx").graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), [[1, 4], [2, 5], [3, 6]])


def test_a_node_without_a_name_gets_one_that_no_node_has(tmp_path: Path) -> None:
    """ONNX Runtime refuses a graph with one name twice."""
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[1,3] x) => (float[1,3] y) {
            a = Relu(x)
            b = Relu(a)
            y = Relu(b)
        }""")
    model.graph.node[1].name = "Relu_0"
    onnx.save(model, tmp_path / "model.onnx")
    assert [node.name for node in prepare_graph(tmp_path / "model.onnx").graph.node] == ["Relu_1", "Relu_0", "Relu_2"]

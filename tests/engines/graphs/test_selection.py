"""Which products have their weights in int8: what is told is what was written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from attar.engines.graphs.int8_dynamic import write_dynamic_int8_graph
from attar.engines.graphs.int8_weights import write_int8_weights_graph
from attar.engines.graphs.selection import TWO_ACTIVATIONS, UNREAD_GEMM
from attar.engines.runtimes.onnxruntime import open_session
from attar.pipeline.core.errors import UnsupportedModelError

FORMS: dict[str, Callable[..., Any]] = {
    "int8-dynamic": partial(write_dynamic_int8_graph, per_channel=True, exclude=()),
    "int8-weights": partial(write_int8_weights_graph, exclude=()),
}
PRODUCTS = {
    "MatMul(left, x)": "a weight on the left",
    "MatMul(x, stacked)": "a weight of 3 axes",
    "MatMul(x, x)": TWO_ACTIVATIONS,
    "Gemm(x, x)": TWO_ACTIVATIONS,
    "Gemm<alpha = 0.5>(x, table)": UNREAD_GEMM,
    "Gemm<transA = 1>(x, table)": UNREAD_GEMM,
}
"""Products that no quantizer of ONNX Runtime reads, and what is told of them."""
SIZE = 64


def write_graph(file: Path, product: str) -> Path:
    """Write ``product`` and a product by a table, whose weight can be stored."""
    axes = "?,?,?" if "stacked" in product else "?,?"
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        two (float[{SIZE},{SIZE}] x) => (float[{SIZE},{SIZE}] out, float[{axes}] read) {{
            left_out = {product}  read = Relu(left_out)
            h = MatMul(x, table)  out = Relu(h)
        }}"""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = {"left_out": "odd", "h": "plain"}.get(node.output[0], f"{node.op_type}_{node.output[0]}")
    generator = np.random.default_rng(0)
    for name, shape in {"left": (SIZE, SIZE), "table": (SIZE, SIZE), "stacked": (4, SIZE, SIZE)}.items():
        values = generator.normal(0, 0.1, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, file)
    return file


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_product_that_the_quantizer_passes_over_is_told_as_float(tmp_path: Path, form: str, product: str) -> None:
    source, target = write_graph(tmp_path / "float.onnx", product), tmp_path / "int8.onnx"
    facts = FORMS[form](source, target)
    assert facts["quantized"] == {"MatMul": 1}
    assert facts["float"] == {"odd": PRODUCTS[product]}
    rounded = [node for node in onnx.load(target).graph.node if node.op_type in ("MatMulInteger", "MatMulNBits")]
    assert len(rounded) == 1
    x = np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32)
    with open_session({"model": source}, None) as exact, open_session({"model": target}, None) as got:
        np.testing.assert_array_equal(exact({"x": x})["read"], got({"x": x})["read"])


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_without_a_weight_to_store_is_refused_with_the_reasons(tmp_path: Path, form: str) -> None:
    model = onnx.load(write_graph(tmp_path / "float.onnx", "MatMul(x, stacked)"))
    model.graph.node[2].input[1] = "x"
    onnx.save(model, tmp_path / "float.onnx")
    with pytest.raises(UnsupportedModelError, match=r"no Gemm, MatMul is left \(odd a weight of 3 axes, plain a product"):
        FORMS[form](tmp_path / "float.onnx", tmp_path / "int8.onnx")

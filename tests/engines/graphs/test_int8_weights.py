"""Weights in int8: what is rounded and what is not, and a row's answer whatever its batch."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines.graphs.int8 import EXCLUDED
from attar.engines.graphs.int8_dynamic import write_dynamic_int8_graph
from attar.engines.graphs.int8_weights import BITS, BLOCK, write_int8_weights_graph
from attar.engines.runtimes.onnxruntime import open_session
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from tests.support.tasks.smoke import floats

WIDTH, HIDDEN, CLASSES = 200, 96, 10
GRAPH = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    two (float[batch,{WIDTH}] x) => (float[batch,{CLASSES}] logits, float[batch,batch] gram) {{
        h = MatMul(x, first)  r = Relu(h)  logits = MatMul(r, second)
        t = Transpose<perm = [1, 0]>(r)  gram = MatMul(r, t)
    }}"""


def write_graph(folder: Path) -> Path:
    """Two products by weights, ``first`` and ``second``, and one of two activations, ``gram``."""
    model = onnx.parser.parse_model(GRAPH)
    names = iter(("first", "second", "gram"))
    for node in model.graph.node:
        node.name = next(names) if node.op_type == "MatMul" else f"{node.op_type}_node"
    generator = np.random.default_rng(0)
    for name, shape in {"first": (WIDTH, HIDDEN), "second": (HIDDEN, CLASSES)}.items():
        weights = generator.normal(0, 0.1, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("int8-weights")
    source, target = write_graph(folder), folder / "int8.onnx"
    write_int8_weights_graph(source, target, ())
    return {"float": source, "int8": target}


def draw_rows(seed: int, count: int) -> np.ndarray:
    scales = 10.0 ** np.random.default_rng(seed).uniform(-2, 2, (count, 1))
    return (np.random.default_rng(seed).standard_normal((count, WIDTH)) * scales).astype(np.float32)


def test_products_by_weights_are_int8_and_others_are_not(tmp_path: Path) -> None:
    facts = write_int8_weights_graph(write_graph(tmp_path), tmp_path / "int8.onnx", ())
    assert facts == {"quantized": {"MatMul": 2}, "float": {"gram": "a product of two activations"}}
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert [node.op_type for node in nodes].count("MatMulNBits") == 2
    assert [node.name for node in nodes if node.op_type == "MatMul"] == ["gram"]
    attributes = [{entry.name: entry.i for entry in node.attribute} for node in nodes if node.op_type == "MatMulNBits"]
    assert all(each["bits"] == BITS and each["block_size"] == BLOCK for each in attributes)
    assert all(each["accuracy_level"] == 4 for each in attributes)


def test_an_excluded_product_stays_float(tmp_path: Path) -> None:
    facts = write_int8_weights_graph(write_graph(tmp_path), tmp_path / "int8.onnx", ["second"])
    assert facts["quantized"] == {"MatMul": 1}
    assert facts["float"]["second"] == EXCLUDED
    names = [node.name for node in onnx.load(tmp_path / "int8.onnx").graph.node if node.op_type == "MatMul"]
    assert sorted(names) == ["gram", "second"]


@pytest.mark.parametrize(("transposes", "excludes"), [(False, False), (True, False), (False, True)])
def test_a_gemm_is_rounded_as_a_matmul_with_its_bias(tmp_path: Path, transposes: bool, excludes: bool) -> None:
    """An exporter writes a linear layer of two axes as a Gemm."""
    model = onnx.load(write_graph(tmp_path))
    (node,) = [node for node in model.graph.node if node.name == "second"]
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "second"]
    bias = np.arange(CLASSES, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(bias, "bias"))
    node.op_type = "Gemm"
    node.input.append("bias")
    if transposes:
        node.attribute.append(onnx.helper.make_attribute("transB", 1))
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).T.copy(), "second"))
    onnx.save(model, tmp_path / "gemm.onnx")
    facts = write_int8_weights_graph(tmp_path / "gemm.onnx", tmp_path / "int8.onnx", ["second"] if excludes else ())
    assert facts["quantized"] == {"MatMul": 1 if excludes else 2}
    assert facts["float"].keys() == ({"gram", "second"} if excludes else {"gram"})
    with open_session({"model": tmp_path / "gemm.onnx", "int8": tmp_path / "int8.onnx"}, 1) as predict:
        before, after = (
            np.asarray(predict.graphs[name]({"x": draw_rows(0, 4)})["logits"], np.float32) for name in ("model", "int8")
        )
    np.testing.assert_allclose(after, before, atol=0.02 * np.abs(before).max())


def test_a_gemm_that_scales_stays_float_and_is_named(tmp_path: Path) -> None:
    model = onnx.load(write_graph(tmp_path))
    (node,) = [node for node in model.graph.node if node.name == "second"]
    node.op_type = "Gemm"
    node.attribute.append(onnx.helper.make_attribute("alpha", 0.5))
    onnx.save(model, tmp_path / "gemm.onnx")
    facts = write_int8_weights_graph(tmp_path / "gemm.onnx", tmp_path / "int8.onnx", ())
    assert facts["float"].keys() == {"gram", "second"}
    assert "Gemm" in facts["float"]["second"]


def test_a_table_that_embeds_and_projects_is_rounded(tmp_path: Path) -> None:
    """An exporter writes the projection as a product by the transposed table."""
    size, width = 1024, 8
    text = f"""
        <ir_version: 10, opset_import: ["" : 20]>
        tied (int64[batch] token) => (float[batch,{size}] logits) {{
            x = Gather(table, token)  t = Transpose<perm = [1, 0]>(table)  logits = MatMul(x, t)
        }}"""
    model = onnx.parser.parse_model(text)
    values = np.random.default_rng(0).standard_normal((size, width)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "table"))
    onnx.save(model, tmp_path / "tied.onnx")
    facts = write_int8_weights_graph(tmp_path / "tied.onnx", tmp_path / "int8.onnx", ())
    assert facts["quantized"] == {"MatMul": 1}
    # As the last layer it is not small: dynamic int8 rounds it, too.
    dynamic = write_dynamic_int8_graph(tmp_path / "tied.onnx", tmp_path / "dynamic.onnx", True, ())
    assert dynamic["quantized"] == {"MatMul": 1}
    files = {name: tmp_path / f"{name}.onnx" for name in ("tied", "int8", "dynamic")}
    with open_session(files, 1) as predict:
        rows = {"token": np.array([5, 900])}
        before, *after = (np.asarray(predict.graphs[name](rows)["logits"], np.float32) for name in files)
    np.testing.assert_allclose(after, [before] * 2, atol=0.03 * np.abs(before).max())


def test_nothing_left_to_round(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="MatMul"):
        write_int8_weights_graph(write_graph(tmp_path), tmp_path / "int8.onnx", ["first", "second"])


def test_an_excluded_node_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="third"):
        write_int8_weights_graph(write_graph(tmp_path), tmp_path / "int8.onnx", ["third"])


def test_the_graph_is_smaller_and_nearly_as_good(graphs: dict[str, Path]) -> None:
    assert graphs["int8"].stat().st_size < 0.4 * graphs["float"].stat().st_size
    x = {"x": draw_rows(1, 16)}
    with open_session(graphs, threads=1) as predict:
        expected, got = (floats(predict.graphs[name](x)["logits"]) for name in ("float", "int8"))
    error = np.abs(got - expected).max(1) / np.abs(expected).max(1)  # of each row: scales differ
    assert 0 < error.mean() < 0.02
    assert error.max() < 0.06


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), count=st.integers(1, 64))
def test_a_row_does_not_depend_on_its_batch(graphs: dict[str, Path], seed: int, count: int) -> None:
    rows = draw_rows(seed, count)
    with open_session({"model": graphs["int8"]}, threads=1) as predict:
        whole = floats(predict({"x": rows})["logits"])
        for row in {0, count // 2, count - 1}:
            alone = floats(predict({"x": rows[row : row + 1]})["logits"])
            np.testing.assert_allclose(alone[0], whole[row], rtol=1e-5, atol=1e-5 * np.abs(alone).max())


def test_the_same_graph_has_the_same_bytes(tmp_path: Path) -> None:
    source = write_graph(tmp_path)
    for name in ("one", "two"):
        write_int8_weights_graph(source, tmp_path / name, ())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


FIRST_USE = """
import logging, sys
from pathlib import Path
from attar.engines.graphs.int8_dynamic import write_dynamic_int8_graph
from attar.engines.graphs.int8_weights import write_int8_weights_graph

root = logging.getLogger()
write_int8_weights_graph(Path(sys.argv[1]), Path(sys.argv[2]), ())
assert (root.handlers, root.level, root.manager.disable) == ([], logging.WARNING, 0), root.handlers
"""


def test_logging_is_left_as_it_was(tmp_path: Path) -> None:
    """The first use imports ONNX Runtime's quantizer, which sets the logging of the process."""
    command = [sys.executable, "-c", FIRST_USE, str(write_graph(tmp_path)), str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("disabled", [logging.NOTSET, logging.WARNING])
def test_logging_that_was_disabled_stays_so(tmp_path: Path, disabled: int) -> None:
    logging.disable(disabled)
    try:
        write_int8_weights_graph(write_graph(tmp_path), tmp_path / "int8.onnx", ())
        assert logging.root.manager.disable == disabled
    finally:
        logging.disable(logging.NOTSET)


def test_logging_is_left_as_it_was_when_nothing_can_be_rounded(tmp_path: Path) -> None:
    before = logging.root.manager.disable
    with pytest.raises(UnsupportedModelError):
        write_int8_weights_graph(write_graph(tmp_path), tmp_path / "x", ["first", "second"])
    assert logging.root.manager.disable == before

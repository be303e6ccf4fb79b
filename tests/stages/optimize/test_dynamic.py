"""int8 for texts, dynamic and static: a small transformer whose batch and sequence are dynamic and whose samples are ragged."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from attar.engines.graphs import int8_dynamic as dynamic
from attar.engines.graphs.inspection import count_nodes
from attar.engines.runtimes import onnxruntime
from attar.models import views
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.calibrate import Calibrate
from attar.stages.export.stage import Export
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke
from tests.support.tasks.ragged_words import RaggedWords

WORDS = "tests.support.tasks.ragged_words:RaggedWords"
TWO_PRODUCTS = """
    <ir_version: 9, opset_import: ["" : 18]>
    products (float[batch,8] x) => (float[batch,3] y) {
        first = Gemm(x, a, b)
        seen = Relu(first)
        second = MatMul(seen, c)
        heard = Relu(second)
        y = Gemm(heard, d, e)
    }"""
WEIGHTS = {"a": (8, 8), "b": (8,), "c": (8, 8), "d": (8, 3), "e": (3,)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Ranges]:
    root = tmp_path_factory.mktemp("words")
    weights = smoke.weights(root / "weights", "tests.support.tasks.ragged_words:transformer", WORDS)
    for name in ("onnx", "ranges"):
        (root / name).mkdir()
    model = smoke.artifact(OnnxModel, root / "onnx", Export(exporter="torchscript").run(root / "onnx", weights=weights))
    return model, smoke.artifact(Ranges, root / "ranges", Calibrate(task=WORDS, samples=60).run(root / "ranges", onnx=model))


def optimized(out: Path, exported: tuple[OnnxModel, Ranges], **settings: Any) -> OnnxModel:
    out.mkdir(exist_ok=True)
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": exported[1]}
    return smoke.artifact(OnnxModel, out, Optimize(task=WORDS, **settings).run(out, onnx=exported[0], **given))


def products(file: Path, *, per_channel: bool = True, exclude: Collection[str] = ()) -> tuple[Facts, onnx.ModelProto]:
    """``TWO_PRODUCTS`` with drawn weights, quantized."""
    model, generator = onnx.parser.parse_model(TWO_PRODUCTS), np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        drawn = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(drawn, name))
    onnx.save(model, file)
    facts = dynamic.write_dynamic_int8_graph(file, file.with_suffix(".int8.onnx"), per_channel, exclude)
    return facts, onnx.load(file.with_suffix(".int8.onnx"))


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "fp16"])
def test_ragged_texts_keep_their_answers(tmp_path: Path, exported: tuple[OnnxModel, Ranges], precision: str) -> None:
    made = optimized(tmp_path / "out", exported, precision=precision)
    assert made.facts["precision"] == precision
    batches = list(views.iterate_spread(RaggedWords(), RaggedWords().split("test"), 60, 7))
    assert len({seen.inputs["text"].shape[1] for seen in batches}) > 1
    with exported[0].open(threads=1) as exact, made.open(threads=1) as rounded:
        a, b = (
            np.concatenate([smoke.floats(predict(seen.inputs)["logits"]) for seen in batches]) for predict in (exact, rounded)
        )
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
    assert np.abs(a - b).max() > 0  # it is rounded


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_weights_are_int8_and_attention_is_float(tmp_path: Path, exported: tuple[OnnxModel, Ranges], precision: str) -> None:
    """Four products by weights in each of two blocks; the two of attention, the embeddings and the head stay float."""
    made = optimized(tmp_path / "out", exported, precision=precision)
    assert made.facts["quantized"] == {"MatMul": 8}
    assert len(made.facts["float"]) == 5
    onnxruntime.write_optimized(made.file(), tmp_path / "engine.onnx")
    found = count_nodes([tmp_path / "engine.onnx"])
    assert found.get("DynamicQuantizeMatMul", 0) + found.get("MatMulIntegerToFloat", 0) + found.get("QLinearMatMul", 0) == 8
    initializers = onnx.load(made.file()).graph.initializer
    embedding = next(tensor for tensor in initializers if list(tensor.dims) == [50, 16])
    assert embedding.data_type == onnx.TensorProto.FLOAT


def test_the_form_of_dynamic_int8(tmp_path: Path) -> None:
    """Weights are signed and symmetric, with a scale for each output channel; the last layer stays float."""
    facts, model = products(tmp_path / "x.onnx")
    assert facts["quantized"] == {"Gemm": 1, "MatMul": 1}
    assert len(facts["float"]) == 1
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    integers = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(integers) == sum(facts["quantized"].values())
    for node in integers:
        assert weights[node.input[1]].dtype == np.int8
        assert not weights[node.input[3]].any()
    assert sorted(array.shape for name, array in weights.items() if name.endswith("_scale")) == [(8,), (8,)]


def test_one_scale_a_weight_and_what_is_excluded(tmp_path: Path) -> None:
    _, model = products(tmp_path / "x.onnx", per_channel=False)
    assert {tuple(t.dims) for t in model.graph.initializer if t.name.endswith("_scale")} <= {(), (1,)}
    facts, model = products(tmp_path / "y.onnx", exclude=["Gemm_0"])
    assert facts["quantized"] == {"MatMul": 1}
    assert facts["float"]["Gemm_0"] == "excluded by the recipe"
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == 1


def test_what_cannot_be_quantized_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="precision = 'int8'"):
        products(tmp_path / "x.onnx", exclude=["Gemm_0", "MatMul_2"])
    with pytest.raises(StageError, match="exclude names a node 'Gemm_1' that the graph does not have; did you mean 'Gemm_"):
        products(tmp_path / "y.onnx", exclude=["Gemm_1"])


def test_bytes_are_the_same_again_and_say_nothing_else(
    tmp_path: Path, exported: tuple[OnnxModel, Ranges], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (optimized(tmp_path / name, exported, precision="int8-dynamic") for name in ("one", "two"))
    assert one.file().read_bytes() == two.file().read_bytes()
    assert not onnx.load(one.file()).metadata_props
    assert caplog.text == ""


def test_nothing_is_calibrated_for_it() -> None:
    assert Optimize(task=WORDS, precision="int8-dynamic").reading() == {"onnx"}

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attar.engines.graphs.inspection import count_nodes
from attar.engines.graphs.pooling import replace_global_means
from attar.engines.graphs.preparation import name_nodes, prepare_graph
from attar.engines.graphs.selection import find_float_nodes
from attar.engines.runtimes import onnxruntime
from attar.models.task import Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.digits import Digits
from attar.models.views import iterate_clean
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.export.stage import Export
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke


class TokenValues(Task):
    """Sentences of any length, a value for each token."""

    inputs = {"tokens": Tensor("int64", ("batch", "sequence"), high=20, pad=0)}
    outputs = {"values": Output(("batch", "sequence", 4), kind="values")}
    ranges = {"batch": (1, 8), "sequence": (3, 12)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return InMemory(self.example(np.random.default_rng(0), batch=40, sequence=9), {})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["values"]), 1))


class SummaryReader(nn.Module):
    """Each token beside its neighbours, and beside a summary of the sentence that is repeated for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.first, self.second = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(self.embedding(tokens).transpose(1, 2))).transpose(1, 2)  # (B, S, 8)
        features = x.mean(1)  # (B, 8)
        repeated = features[:, None].expand(-1, tokens.shape[1], -1)  # (B, S, 8): its shape is computed from S
        x = torch.relu(self.second(torch.cat([x, repeated], 2).transpose(1, 2))).transpose(1, 2)  # (B, S, 16)
        return self.head(x)  # type: ignore[no-any-return]  # (B, S, 4); nn.Module calls are untyped


def reader() -> SummaryReader:
    return SummaryReader()


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges) -> OnnxModel:
    return optimized(tmp_path_factory.mktemp("int8"), digits_onnx, digits_ranges, precision="int8")


def optimized(out: Path, model: OnnxModel, ranges: Ranges, **settings: Any) -> OnnxModel:
    """Without a floor, for which nobody is asked."""
    out.mkdir(exist_ok=True)
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": ranges}
    return smoke.artifact(OnnxModel, out, Optimize(task=smoke.DIGITS, **settings).run(out, onnx=model, **given))


def exported(folder: Path, network: str, task: str, exporter: str = "torchscript", **options: Any) -> tuple[OnnxModel, Ranges]:
    weights = smoke.weights(folder / "weights", network, task, **options)
    onnx_folder, ranges_folder = folder / "onnx", folder / "ranges"
    onnx_folder.mkdir()
    ranges_folder.mkdir()
    facts = Export.model_validate({"exporter": exporter}).run(onnx_folder, weights=weights)
    model = smoke.artifact(OnnxModel, onnx_folder, facts)
    return model, smoke.artifact(Ranges, ranges_folder, Calibrate(task=task, samples=30).run(ranges_folder, onnx=model))


def kernels(model: OnnxModel, file: Path) -> dict[str, int]:
    """What ONNX Runtime really runs."""
    onnxruntime.write_optimized(model.file(), file)
    return count_nodes([file])


def test_fp32_is_the_graph_itself(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    made = optimized(tmp_path, digits_onnx, digits_ranges, precision="fp32")
    assert made.file().read_bytes() == digits_onnx.file().read_bytes()
    assert made.facts["precision"] == "fp32"
    assert made.facts["parameters"] == digits_onnx.facts["parameters"]


def test_int8_keeps_the_answers(digits_onnx: OnnxModel, int8: OnnxModel) -> None:
    inputs = next(iterate_clean(Digits(), Digits().split("validation"))).inputs
    with digits_onnx.open(threads=1) as exact, int8.open(threads=1) as rounded:
        a, b = (smoke.floats(predict(inputs)["logits"]) for predict in (exact, rounded))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995
    assert np.abs(a - b).max() > 0  # it is rounded


def test_int8_form(int8: OnnxModel) -> None:
    """Activations unsigned; weights signed, symmetric, a scale for each output channel."""
    graph = onnx.load(int8.file()).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    assert {constants[node.input[2]].dtype for node in quantizers} == {np.dtype(np.uint8)}
    weights = {name: array for name, array in constants.items() if array.dtype == np.int8 and array.ndim == 4}
    assert len(weights) == 8
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            assert constants[node.input[1]].shape == (len(weights[node.input[0]]),)
            assert not constants[node.input[2]].any()


def test_everything_between_stem_and_head_runs_in_int8(tmp_path: Path, int8: OnnxModel) -> None:
    found = kernels(int8, tmp_path / "optimized.onnx")
    floats = {name: found.get(name, 0) for name in ("Conv", "Gemm", "Add", "Relu", "ReduceMean", "GlobalAveragePool")}
    assert floats == {"Conv": 1, "Gemm": 1, "Add": 0, "Relu": 0, "ReduceMean": 0, "GlobalAveragePool": 0}
    assert (found["QLinearConv"], found["QLinearAdd"], found["QLinearGlobalAveragePool"]) == (8, 3, 1)
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1
    assert int8.facts["quantized"]["Conv"] == 8
    assert len(int8.facts["float"]) == 2  # the stem and the last layer


@pytest.mark.parametrize("network", [smoke.RESIDUAL, smoke.MOBILE])
def test_the_torchscript_graph_runs_in_int8_too(tmp_path: Path, network: str) -> None:
    """It shares the equal biases of untrained layers through Identity nodes."""
    model, ranges = exported(tmp_path, network, smoke.DIGITS, width=8)
    found = kernels(optimized(tmp_path / "out", model, ranges, precision="int8"), tmp_path / "optimized.onnx")
    assert found["Conv"] == found["QuantizeLinear"] == found["DequantizeLinear"] == 1
    assert found["QLinearGlobalAveragePool"] == 1


def test_transformers_get_int8_products_alone(tmp_path: Path) -> None:
    model, ranges = exported(tmp_path, "tests.support.tasks.smoke:attention", "tests.support.tasks.smoke:ThreeNumbers")
    made = optimized(tmp_path / "out", model, ranges, precision="int8")
    assert set(made.facts["quantized"]) == {"MatMul"}
    with made.open(threads=1) as predict:
        assert np.isfinite(smoke.floats(predict({"x": np.ones((2, 3), np.float32)})["y"])).all()


def test_shapes_that_a_network_computes_stay_integers(tmp_path: Path) -> None:
    model, ranges = exported(
        tmp_path, "tests.stages.optimize.test_optimize:reader", "tests.stages.optimize.test_optimize:TokenValues", "dynamo"
    )
    made = optimized(tmp_path / "out", model, ranges, precision="int8")
    assert made.facts["quantized"]["Conv"] == 2
    tokens = TokenValues().example(np.random.default_rng(1), batch=5, sequence=11)
    with model.open(threads=1) as exact, made.open(threads=1) as rounded:
        a, b = (smoke.floats(predict(tokens)["values"]) for predict in (exact, rounded))
    assert a.shape == (5, 11, 4)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995
    assert np.abs(a - b).max() > 0


def test_indices_and_shapes_stay_exact() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]>
        pool (float[1,4,6,6] x, int64[2] a) => (float[1,4,3,3] y, int64[1,4,3,3] i, int64[4] c) {
            y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
            c = Concat<axis=0>(a, a)
            f = Cast<to=1>(a)
            g = Concat<axis=0>(f, f)
        }""")
    name_nodes(model)
    assert find_float_nodes(model) == {"Concat_1": "computes in int64"}


def test_bytes_are_the_same_again(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, int8: OnnxModel) -> None:
    again = optimized(tmp_path, digits_onnx, digits_ranges, precision="int8")
    assert again.file().read_bytes() == int8.file().read_bytes()
    assert again.facts == int8.facts


def test_excluded_nodes_stay_float(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, int8: OnnxModel) -> None:
    chosen = [node.name for node in onnx.load(digits_onnx.file()).graph.node if node.op_type == "Conv"][3]
    made = optimized(tmp_path, digits_onnx, digits_ranges, precision="int8", exclude=[chosen])
    assert set(made.facts["float"]) == {*int8.facts["float"], chosen}
    assert kernels(made, tmp_path / "optimized.onnx")["Conv"] == 2


def test_one_scale_a_weight(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, int8: OnnxModel) -> None:
    made = optimized(tmp_path, digits_onnx, digits_ranges, precision="int8", per_channel=False)
    assert made.file().read_bytes() != int8.file().read_bytes()


def test_refusals(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    with pytest.raises(StageError, match=r"'node_Conv' .*did you"):
        optimized(tmp_path / "a", digits_onnx, digits_ranges, precision="int8", exclude=["node_Conv"])
    model, ranges = exported(tmp_path / "linear", "tests.support.tasks.smoke:linear", "tests.support.tasks.smoke:ThreeNumbers")
    with pytest.raises(UnsupportedModelError, match="precision = 'fp32'"):
        optimized(tmp_path / "b", model, ranges, precision="int8")
    with pytest.raises(StageError, match="another graph"):
        optimized(tmp_path / "c", digits_onnx, ranges, precision="int8")
    with pytest.raises(ValidationError, match="precision"):
        Optimize.model_validate({"task": smoke.DIGITS, "precision": "int4"})


@pytest.mark.parametrize(("keepdims", "operators"), [(1, ["GlobalAveragePool"]), (0, ["GlobalAveragePool", "Flatten"])])
def test_a_mean_over_the_image_becomes_a_pool(keepdims: int, operators: list[str]) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        mean (float[batch,4,6,5] x) => (float[batch,4{",1,1" if keepdims else ""}] y) <int64[2] axes = {{-1, 2}}> {{
            y = ReduceMean<keepdims={keepdims}>(x, axes)
        }}""")
    x = np.random.default_rng(0).standard_normal((3, 4, 6, 5)).astype(np.float32)
    replace_global_means(model, {"y": (0.0, 1.0)})
    assert [node.op_type for node in model.graph.node] == operators
    onnx.checker.check_model(model, full_check=True)
    with onnxruntime.open_session({"model": model.SerializeToString()}, 1) as predict:
        np.testing.assert_allclose(smoke.floats(predict({"x": x})["y"]), x.mean((2, 3), keepdims=bool(keepdims)), atol=1e-6)


@pytest.mark.parametrize("node", ["ReduceMean(x, channels)", "ReduceMean(x)", "ReduceMean(x, computed)"])
def test_other_means_stay(node: str) -> None:
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 18]>
        mean (float[batch,4,6,5] x, int64[2] computed) => (float[a,b,c,d] y) <int64[2] channels = {{1, 2}}> {{ y = {node} }}
    """)
    replace_global_means(model, {})
    assert [node.op_type for node in model.graph.node] == ["ReduceMean"]


def test_identities_are_removed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 18]>
        shared (float[2] x) => (float[2] y) <float[2] bias = {1, 2}> {
            again = Identity(bias)
            more = Identity(again)
            z = Add(x, more)
            y = Identity(z)
        }""")
    onnx.save(model, tmp_path / "model.onnx")
    (node,) = prepare_graph(tmp_path / "model.onnx").graph.node
    assert node.op_type == "Add"
    assert list(node.input) == ["x", "bias"]
    assert list(node.output) == ["y"]


@dataclass(frozen=True)
class Climbing:
    """``climbing(out, floor=..., ...)``: one scale a weight, for channels that differ much; in float CORR is 1."""

    given: dict[str, Any]

    def __call__(self, out: Path, **settings: Any) -> OnnxModel:
        payload = out / "payload"
        payload.mkdir(parents=True)
        asked = {"task": smoke.DIGITS, "precision": "int8", "per_channel": False, "tuning_epochs": 1, "device": "cpu"}
        asked |= {"reduce_range": False, **settings}
        return smoke.artifact(OnnxModel, payload, Optimize(**asked).run(payload, **self.given))


@pytest.fixture(scope="module")
def climbing(hard: tuple[OnnxModel, Ranges], digits_weights: Weights, own_answers: Answers) -> Climbing:
    student = smoke.artifact(Weights, digits_weights.root, {**digits_weights.facts, "correlation": 1.0})
    minmax = hard[1].compute_ranges()
    half = {name: (low / 2, high / 2) for name, (low, high) in minmax.items()}  # clips, and is worse
    near = {name: (0.98 * low, 0.98 * high) for name, (low, high) in minmax.items()}
    ranges = smoke.known(minmax, percentile=half, mse=near)
    return Climbing({"student": student, "onnx": hard[0], "calibration": ranges, "answers": own_answers})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, climbing: Climbing) -> OnnxModel:
    return climbing(tmp_path_factory.mktemp("plain"))


def test_above_the_floor_nothing_is_touched(tmp_path: Path, climbing: Climbing, plain: OnnxModel) -> None:
    made = climbing(tmp_path, floor=0.9)
    assert made.file().read_bytes() == plain.file().read_bytes()
    facts = dict(made.facts)
    (rung,) = facts["rungs"]
    assert (facts["rung"], rung["rung"], facts["reached"], facts["student"]) == ("per-tensor", "per-tensor", True, 1.0)
    assert 0.9 <= rung["correlation"] < 0.9995
    assert {name: facts[name] for name in plain.facts} == plain.facts


def test_below_the_floor_distillation_is_the_last_resort(tmp_path: Path, climbing: Climbing) -> None:
    made = climbing(tmp_path, floor=0.99999, tuning_learning_rate=1e-4)
    rungs = {rung["rung"]: rung for rung in made.facts["rungs"]}
    without = ["without-1", "without-2", "without-4"]  # of eight convolutions
    assert list(rungs) == ["per-tensor", "per-channel", "percentile", "entropy", "mse", *without, "distillation"]
    assert rungs["per-tensor"]["correlation"] < rungs["per-channel"]["correlation"]
    assert rungs["percentile"]["correlation"] < rungs["per-channel"]["correlation"]
    assert {rungs[name]["range_method"] for name in without} != {"percentile"}  # which was worse
    assert made.facts["rung"] == "distillation"
    last = rungs["distillation"]
    assert last["correlation"] > rungs["without-4"]["correlation"]
    assert [entry["epoch"] for entry in last["tuning"]["history"]] == [1]  # as many as allowed
    assert (made.facts["floor"], made.facts["reached"], made.facts["precision"]) == (0.99999, False, "int8")
    assert made.facts["quantized"] == last["quantized"] == rungs["without-4"]["quantized"]
    assert list(made.facts["sensitivity"].values()) == sorted(made.facts["sensitivity"].values(), reverse=True)
    assert made.file().read_bytes() == (tmp_path / "scratch" / "distillation.onnx").read_bytes()
    nodes = [onnx.load(tmp_path / "scratch" / f"{name}.onnx").graph.node for name in ("distillation", "without-4")]
    assert list(nodes[0]) == list(nodes[1])  # and only the numbers differ


def test_what_made_it_worse_is_not_kept(tmp_path: Path, climbing: Climbing) -> None:
    made = climbing(tmp_path, floor=0.99999, tuning_learning_rate=1e3)
    *others, last = made.facts["rungs"]
    best = max(others, key=lambda rung: float(rung["correlation"]))
    assert last["correlation"] < best["correlation"]
    assert made.facts["rung"] == best["rung"]
    assert "tuning" not in made.facts
    assert made.file().read_bytes() == (tmp_path / "scratch" / f"{best['rung']}.onnx").read_bytes()


def test_without_epochs_there_is_no_last_resort(tmp_path: Path, climbing: Climbing) -> None:
    made = climbing(tmp_path, floor=0.99999, tuning_epochs=0)
    assert made.facts["rungs"][-1]["rung"] == "without-4"
    assert not made.facts["reached"]


def test_fp16_climbs_a_ladder_of_its_own(tmp_path: Path, climbing: Climbing) -> None:
    made = climbing(tmp_path, floor=0.9, precision="fp16")
    assert [rung["rung"] for rung in made.facts["rungs"]] == ["within-0.1"]
    assert 0.9 < made.facts["rungs"][0]["correlation"] <= 1
    assert (made.facts["reached"], made.facts["precision"], made.facts["half"]["Conv"]) == (True, "fp16", 9)


def test_a_floor_that_the_student_itself_does_not_have(tmp_path: Path, climbing: Climbing) -> None:
    low = smoke.artifact(Weights, tmp_path, {**climbing.given["student"].facts, "correlation": 0.91})
    other = Climbing({**climbing.given, "student": low})
    with pytest.raises(StageError, match=r"floor = 0.95, .*of 0.91"):
        other(tmp_path / "out", floor=0.95)


def test_a_floor_for_a_student_that_was_not_compared(tmp_path: Path, climbing: Climbing) -> None:
    facts = {name: fact for name, fact in climbing.given["student"].facts.items() if name != "correlation"}
    other = Climbing({**climbing.given, "student": smoke.artifact(Weights, tmp_path, facts)})
    with pytest.raises(StageError, match=r"floor = 0.5 "):
        other(tmp_path / "out", floor=0.5)


def test_an_operator_that_cannot_be_trained_is_named(tmp_path: Path, climbing: Climbing) -> None:
    given = climbing.given
    model = onnx.load(given["onnx"].file())
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.append(onnx.helper.make_node("Elu", ["inner"], ["logits"], name="odd"))
    onnx.save(model, tmp_path / "model.onnx")
    ranges = smoke.known({**given["calibration"].compute_ranges(), "inner": (-9, 9)})  # no head any more, so it is int8 too
    other = Climbing({**given, "onnx": smoke.artifact(OnnxModel, tmp_path, given["onnx"].facts), "calibration": ranges})
    with pytest.raises(StageError, match=r"Elu .*'odd'\) .*tuning_epochs"):
        other(tmp_path / "out", floor=0.99999)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8-dynamic"])
def test_other_precisions_have_no_ladder(precision: Any) -> None:
    with pytest.raises(ValidationError, match=f"floor .*'{precision}'"):
        Optimize(task=smoke.DIGITS, precision=precision, runtime="openvino", floor=0.9)


def test_without_a_floor_its_settings_decide_nothing() -> None:
    int8 = {"precision", "placement", "per_channel", "range_method", "exclude", "weight_bits"}
    tuning = {"task", "floor", "tuning_epochs", "tuning_learning_rate", "seed"}
    fp16 = {"precision", "exclude", "task"}
    assert Optimize(task=smoke.DIGITS).deciding() == {"precision"}
    assert Optimize(task=smoke.DIGITS).reading() == {"onnx"}
    assert Optimize(task=smoke.DIGITS, precision="int8").deciding() == int8
    dynamic = Optimize(task=smoke.DIGITS, precision="int8-dynamic", reduce_range=True)
    assert dynamic.deciding() == {"precision", "per_channel", "exclude", "weight_bits"}
    assert Optimize(task=smoke.DIGITS, precision="int8", floor=0.9).deciding() == int8 | tuning
    assert Optimize(task=smoke.DIGITS, precision="fp16").deciding() == fp16
    assert Optimize(task=smoke.DIGITS, precision="fp16", floor=0.9).deciding() == fp16 | {"floor"}
    for precision in ("int8", "fp16"):
        asked = Optimize.model_validate({"task": smoke.DIGITS, "precision": precision})
        assert asked.reading() == {"onnx", "calibration"}
        climbing = Optimize.model_validate({"task": smoke.DIGITS, "precision": precision, "floor": 0.9})
        assert climbing.reading() == {"student", "onnx", "calibration", "answers"}

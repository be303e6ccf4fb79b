from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from attar.engines import parity
from attar.models.task import Task, Tensor
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import OnnxModel, Weights
from attar.stages.export.stage import Export
from tests.support.tasks import smoke

Exporter = Literal["dynamo", "torchscript"]
EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")


def export(tmp_path: Path, network: str, task: str, exporter: Exporter = "torchscript", **options: str) -> OnnxModel:
    given = smoke.weights(
        tmp_path / "weights", f"tests.support.tasks.smoke:{network}", f"tests.support.tasks.smoke:{task}", **options
    )
    out = tmp_path / "out"
    out.mkdir()
    return smoke.artifact(OnnxModel, out, Export(exporter=exporter).run(out, weights=given))


def test_the_graph_answers_like_the_network(digits_weights: Weights, digits_onnx: OnnxModel) -> None:
    inputs = {"image": np.random.default_rng(1).standard_normal((7, 1, 8, 8)).astype(np.float32)}
    with digits_weights.open(threads=1) as expected, digits_onnx.open(threads=1) as got:
        np.testing.assert_allclose(smoke.floats(got(inputs)["logits"]), smoke.floats(expected(inputs)["logits"]), atol=1e-4)


def test_facts_describe_the_graph(digits_onnx: OnnxModel) -> None:
    facts = dict(digits_onnx.facts)
    assert 0 < facts.pop("difference") <= 1e-4
    assert facts == {
        "task": smoke.DIGITS,
        "graphs": ["model"],
        "precision": "fp32",
        "opset": 20,
        "exporter": "dynamo",
        "inputs": {"image": ["batch", 1, 8, 8]},
        "outputs": {"logits": ["batch", 10]},
        "parameters": 19642,  # 19,810 less 168 channels: batch normalisation's scale and shift became one bias
    }


def test_the_only_file_names_axes_and_no_source(digits_onnx: OnnxModel) -> None:
    assert [path.name for path in digits_onnx.root.iterdir()] == ["model.onnx"]
    model = onnx.load(digits_onnx.file())
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "", ""]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b".py" not in digits_onnx.file().read_bytes()  # no stack traces: bytes do not depend on where the code lies


def test_bytes_and_facts_are_the_same_again(tmp_path: Path, digits_weights: Weights, digits_onnx: OnnxModel) -> None:
    facts = Export().run(tmp_path, weights=digits_weights)
    assert (tmp_path / "model.onnx").read_bytes() == digits_onnx.file().read_bytes()
    assert facts == digits_onnx.facts


def test_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    for exporter in EXPORTERS:
        export(tmp_path / exporter, "double", "ThreeNumbers", exporter)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_axis_may_be_dynamic_and_outputs_several(tmp_path: Path, exporter: Exporter) -> None:
    made = export(tmp_path, "two", "Images", exporter)
    assert made.facts["outputs"] == {"logits": ["batch", 5], "map": ["batch", 2, "height", "width"]}
    with made.open(threads=1) as predict:
        answer = predict({"image": np.zeros((3, 4, 9, 17), np.float32)})
    assert {name: array.shape for name, array in answer.items()} == {"logits": (3, 5), "map": (3, 2, 9, 17)}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_several_inputs_share_axes(tmp_path: Path, exporter: Exporter) -> None:
    task = "tests.support.tasks.token_task:TokenSentences"
    given = smoke.weights(tmp_path / "weights", "tests.support.tasks.token_task:student", task)
    facts = Export(exporter=exporter, tolerance=1e-3).run(tmp_path, weights=given)
    assert facts["inputs"] == {"tokens": ["batch", "sequence"], "mask": ["batch", "sequence"]}


@pytest.mark.parametrize(
    ("exporter", "fault", "message"),
    [
        ("torchscript", "frozen", r"at batch 1: .*opset = 19"),
        ("torchscript", "reads data", r"'y' differs .*'dynamo'"),
        ("dynamo", "large", r"batch 8: .*'y' .*'torchscript'"),
        ("dynamo", "reads data", r"dynamo .*'torchscript'"),
        ("torchscript", "infinite", r"batch 1: .*'y' .*finite"),
    ],
)
def test_a_wrong_graph_is_never_handed_on(tmp_path: Path, exporter: Exporter, fault: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        export(tmp_path, "double", "ThreeNumbers", exporter, fault=fault)


def test_a_frozen_axis_is_named(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    from attar.models.tasks.digits import Digits
    from attar.stages.export.stage import name_axes

    model = onnx.load(digits_onnx.file())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(StageError, match=r"'batch' of 'image' .*at 2"):
        name_axes(model, Digits(), "")


def test_an_output_of_another_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"'y' has 2 axes .*\['batch', 3, 1\]"):
        export(tmp_path, "double", "WrongAxes")


def test_an_axis_without_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="'batch' but no range"):
        export(tmp_path, "double", "Unranged")


@pytest.mark.parametrize("opset", [17, 23])
def test_opsets_that_runtimes_fail_on_are_refused(opset: int) -> None:
    with pytest.raises(ValidationError, match="opset"):
        Export(opset=opset)


def test_another_opset_is_written(tmp_path: Path) -> None:
    given = smoke.weights(tmp_path / "weights", "tests.support.tasks.smoke:double", "tests.support.tasks.smoke:ThreeNumbers")
    Export(opset=18).run(tmp_path, weights=given)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 18


def test_parity_scales_with_the_answers() -> None:
    task = smoke.ThreeNumbers()

    def answering(offset: float) -> Callable[..., dict[str, np.ndarray]]:
        return lambda inputs: {"y": np.full((len(inputs["x"]), 3), 1000 + offset)}

    assert parity.measure_largest_difference(task, answering(0), answering(0.0625), 1e-4, "") == 0.06
    with pytest.raises(StageError, match=r"0\.12, .*0\.1; look here"):
        parity.measure_largest_difference(task, answering(0), answering(0.125), 1e-4, "look here")


@given(low=st.integers(1, 6), width=st.integers(0, 9), batch=st.integers(1, 70), other=st.integers(0, 5))
def test_sizes_stay_inside_the_promise_and_reach_its_ends(low: int, width: int, batch: int, other: int) -> None:
    class Free(smoke.ThreeNumbers):
        inputs = {"x": Tensor("float32", ("batch", "sequence", "other"))}
        ranges = {"batch": (1, batch), "sequence": (low, low + width), "other": (1, 1 + other)}

    task: Task = Free()
    sizes = parity.list_proven_sizes(task)
    traced = parity.choose_traced_sizes(task)
    assert traced["batch"] == 2
    for axis, (smallest, largest) in task.ranges.items():
        proven = {size[axis] for size in sizes} - {traced[axis]}
        assert all(smallest <= size <= largest for size in proven)
        assert {smallest, largest} <= proven | {traced[axis]}
        assert largest - smallest < 3 or any(smallest < size < largest for size in proven)  # one that was not traced

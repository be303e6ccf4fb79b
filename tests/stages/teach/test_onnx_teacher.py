"""A teacher that is an ONNX file: checked against its task, kept whole, asked through ONNX Runtime, never looked into."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attar.models.task import Output, Tensor
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys.deciders import describe_settings
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.stages.artifacts import Model, OnnxModel
from attar.stages.distill.live_features import require_layers
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.teach.onnx_teacher import check_interface, detect_precision, load_graph
from attar.stages.teach.stage import Teach
from tests.support.projects import tiny
from tests.support.proof.proof_parts import TEACHER, Points, write_graph
from tests.support.stages.training import make_out
from tests.support.tasks.onnx_teacher import NAME, ONNX_TEACHER_RECIPE, DisjointPoints, write_circle_graph, write_single_graph
from tests.support.tasks.smoke import artifact


class IntegerPoints(DisjointPoints):
    inputs = {"x": Tensor("int64", ("batch", 2))}


class FourClassPoints(DisjointPoints):
    outputs = {"logits": Output(("batch", 4), target="label")}


class Other(DisjointPoints):
    outputs = {"scores": Output(("batch", 3), target="label")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_graph(tmp_path / "teacher.onnx", TEACHER)
    return tmp_path / "teacher.onnx"


def adopted(file: Path, out: Path, task: str = NAME) -> OnnxModel:
    return artifact(OnnxModel, out, Teach(task=task, onnx=file).run(out))


def test_facts_tell_what_can_be_known(tmp_path: Path, file: Path) -> None:
    teacher = adopted(file, make_out(tmp_path))
    assert teacher.facts == {
        "task": NAME,
        "graphs": ["model"],
        "precision": "fp32",
        "opset": 20,
        "inputs": {"x": ["batch", 2]},
        "outputs": {"logits": ["batch", 3]},
        "parameters": 6,
        "device": "cpu",
        "score": 1.0,  # the labels are this very matrix's
        "history": [],
        "best_epoch": 0,
    }
    assert onnx.load(teacher.file()) == onnx.load(file)


def test_the_store_gives_back_what_was_put_in(tmp_path: Path, file: Path) -> None:
    assert Teach.makes() is Model
    facts = Teach(task=NAME, onnx=file).run(tmp_path)
    assert type(Model.create("key", "digest", tmp_path, facts)) is OnnxModel
    assert type(Model.create("key", "digest", tmp_path, {"network": "nets.py:teacher"})).__name__ == "Weights"


def test_external_data_is_kept_in_one_file(tmp_path: Path, file: Path) -> None:
    outside = tmp_path / "outside" / "teacher.onnx"
    outside.parent.mkdir()
    onnx.save(onnx.load(file), outside, save_as_external_data=True, location="teacher.onnx_data", size_threshold=0)
    teacher = adopted(outside, make_out(tmp_path))
    assert sorted(path.name for path in teacher.root.iterdir()) == ["model.onnx", "model.onnx.data"]
    for path in outside.parent.iterdir():
        path.unlink()
    with teacher.open() as predict:
        np.testing.assert_array_equal(predict({"x": np.eye(2, dtype=np.float32)})["logits"], TEACHER)
    assert teacher.size > TEACHER.nbytes


def test_its_answers_are_stored_and_the_reference_is_the_same_graph(tmp_path: Path, file: Path) -> None:
    teacher = adopted(file, make_out(tmp_path))
    labelled, exported = tmp_path / "labelled", tmp_path / "exported"
    labelled.mkdir()
    exported.mkdir()
    reference = artifact(OnnxModel, exported, Export().run(exported, weights=teacher))
    assert reference.file().read_bytes() == teacher.file().read_bytes()
    assert reference.facts == {
        **{name: teacher.facts[name] for name in ("task", "graphs", "precision", "opset", "inputs", "outputs", "parameters")},
        "exporter": "none",
        "difference": 0.0,
    }
    facts = Label(task=NAME, views=1, device="cpu").run(labelled, teacher=teacher)
    assert (facts["device"], facts["samples"]) == ("cpu", {"train": 400, "validation": 400, "test": 400})


def test_its_layers_cannot_be_compared(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StageError, match="no network in PyTorch"):
        require_layers(DisjointPoints(), adopted(file, make_out(tmp_path)))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (IntegerPoints, "reads 'x' as float32, IntegerPoints gives it as int64"),
        (FourClassPoints, "['batch', 3], FourClassPoints says"),
        (Other, "answers logits,"),
    ],
)
def test_what_does_not_fit_the_task_is_refused(file: Path, task: type[Points], said: str) -> None:
    with pytest.raises(StageError, match=re.escape(said)):
        check_interface(task(), load_graph(file), file)


PRODUCT = helper.make_node("MatMul", ["x", "matrix"], ["logits"])


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    file = write_single_graph(tmp_path / "fixed.onnx", [PRODUCT], {"x": [1, 2]}, matrix=TEACHER)
    with pytest.raises(StageError, match=r"'x' .*axes \[1, 2\]"):
        adopted(file, make_out(tmp_path))


def test_an_input_that_the_task_does_not_give_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "shift"], ["y"]), helper.make_node("MatMul", ["y", "matrix"], ["logits"])]
    file = write_single_graph(tmp_path / "two.onnx", nodes, {"x": ["batch", 2], "shift": ["batch", 2]}, matrix=TEACHER)
    with pytest.raises(StageError, match="wants shift too"):
        adopted(file, make_out(tmp_path))


def test_an_answer_that_is_not_finite_is_refused_with_its_size(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "matrix"], ["y"]), helper.make_node("Div", ["y", "zero"], ["logits"])]
    file = write_single_graph(tmp_path / "nan.onnx", nodes, {"x": ["batch", 2]}, matrix=TEACHER, zero=np.zeros(3, np.float32))
    with pytest.raises(StageError, match=r"'logits' as float32 \[1, 3\]"):
        adopted(file, make_out(tmp_path))


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(StageError, match=r"text\.onnx .*ONNX"):
        adopted(tmp_path / "text.onnx", make_out(tmp_path))


def test_weights_that_no_key_would_see_are_refused(tmp_path: Path, file: Path) -> None:
    onnx.save(onnx.load(file), tmp_path / "t.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(StageError, match=r"weights\.bin, .*t\.onnx\.data"):
        adopted(tmp_path / "t.onnx", make_out(tmp_path))


def constant_outside(path: Path, location: str) -> None:
    """A graph whose weights are a Constant, whose value lies in another file."""
    (path.parent / location).parent.mkdir(exist_ok=True)
    (path.parent / location).write_bytes(TEACHER.tobytes())
    value = TensorProto(dims=TEACHER.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["matrix"])
    constant.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=value))
    shapes: dict[str, list[str | int | None]] = {"x": ["batch", 2], "logits": ["batch", 3]}
    x, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    product = helper.make_node("MatMul", ["x", "matrix"], ["logits"])
    write_single_graph = helper.make_graph([constant, product], "outside", [x], [logits])
    path.write_bytes(
        helper.make_model(write_single_graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def test_constants_that_lie_outside_are_kept_too(tmp_path: Path) -> None:
    constant_outside(tmp_path / "t.onnx", "t.onnx.data")
    teacher = adopted(tmp_path / "t.onnx", make_out(tmp_path))
    (tmp_path / "t.onnx.data").unlink()
    with teacher.open() as predict:
        np.testing.assert_array_equal(predict({"x": np.eye(2, dtype=np.float32)})["logits"], TEACHER)


@pytest.mark.parametrize("location", ["other.bin", "t.onnx_data/weights.bin"])
def test_constants_that_no_key_would_see_are_refused(tmp_path: Path, location: str) -> None:
    constant_outside(tmp_path / "t.onnx", location)
    with pytest.raises(StageError, match=f"weights in {location}"):
        adopted(tmp_path / "t.onnx", make_out(tmp_path))


def test_external_data_counts_in_the_key(tmp_path: Path, file: Path) -> None:
    before = describe_settings(Teach(task=NAME, onnx=file))["onnx"]
    (tmp_path / "teacher.onnx.data").write_bytes(b"1")
    between = describe_settings(Teach(task=NAME, onnx=file))["onnx"]
    (tmp_path / "teacher.onnx.data").write_bytes(b"2")
    assert len({before, between, describe_settings(Teach(task=NAME, onnx=file))["onnx"]}) == 3


def test_precision_is_what_the_weights_are_stored_in_or_int8(tmp_path: Path) -> None:
    half = write_single_graph(
        tmp_path / "h.onnx",
        [helper.make_node("Cast", ["matrix"], ["m"], to=1), PRODUCT],
        {"x": ["batch", 2]},
        matrix=TEACHER.astype(np.float16),
    )
    quantized = write_single_graph(
        tmp_path / "q.onnx", [helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])], {"x": ["batch", 2]}
    )
    assert [detect_precision(onnx.load(path)) for path in (half, quantized)] == ["fp16", "int8"]


@pytest.mark.slow
def test_a_whole_run_from_an_onnx_file(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    tiny.write(folder, recipe=ONNX_TEACHER_RECIPE)
    write_circle_graph(folder / "teacher.onnx")
    made = tiny.run(folder)
    assert made["targets"]["cpu"]["verdict"] == "passed"
    assert tiny.entry(made, "teacher")["facts"]["score"] == 1.0
    hops = {hop["hop"]: hop for hop in tiny.entry(made, "cpu.evidence")["facts"]["hops"]}
    assert (hops["teacher"]["format"], hops["teacher"]["precision"], hops["teacher"]["parameters"]) == ("ONNX", "fp32", 6)
    assert hops["student"]["format"] == "PyTorch"
    assert hops["reference"]["teacher"]["largest_difference"] == 0.0
    again = tiny.attar(folder, "plan", "recipe.toml", "--json")
    assert again.returncode == 0, again.stderr
    assert "reuse" in again.stdout


def test_the_code_that_adopts_a_graph_counts_for_such_a_teacher_alone(tmp_path: Path, file: Path) -> None:
    code, stage = Fingerprint(tmp_path), "attar.stages.teach.stage:Teach"
    assert Teach(task=NAME, network="nets.py:teacher").adopter == ""
    trained = code.of([stage])
    opaque = code.of([stage, Teach(task=NAME, onnx=file).adopter])
    assert not any(name.startswith("attar.stages.teach.onnx_teacher") for name in trained.definitions)
    assert "onnxruntime" not in trained.packages
    assert "attar.stages.teach.onnx_teacher:check_axes" in opaque.definitions
    assert "onnxruntime" in opaque.packages


def test_a_graph_of_whole_sequences_is_no_teacher(tmp_path: Path, file: Path) -> None:
    with pytest.raises(StageError, match="'words' holds tokens"):
        adopted(file, make_out(tmp_path), "tests.support.tasks.sequences:Reversal")


def test_it_is_asked_on_the_device_that_is_named(tmp_path: Path, file: Path) -> None:
    """On a machine without a GPU that is an error, and no answer of the CPU."""
    with pytest.raises(StageError, match="no NVIDIA"):
        Teach(task=NAME, onnx=file, device="cuda").run(make_out(tmp_path, "teacher"))
    teacher = adopted(file, make_out(tmp_path, "adopted"))
    with pytest.raises(StageError, match="no NVIDIA"):
        Label(task=NAME, device="cuda").run(make_out(tmp_path, "answers"), teacher=teacher)

"""Outputs that are probabilities: told from logits; distilled, compared and stored as the logits that their logarithms are."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import pytest
import torch
from torch import nn

import attar
from attar.engines.graphs import int8
from attar.engines.graphs.softmax import append_softmax, find_maker, remove_softmax, rename_tensor
from attar.engines.runtimes import onnxruntime
from attar.engines.runtimes.torch import check_network, make_predictor
from attar.models.probabilities import KindCheck, from_logits, to_logits
from attar.models.task import Kind, Output, load_task
from attar.pipeline.core.errors import StageError
from attar.proof.estimates.metrics import compare_outputs
from attar.serving.observation.window import Window
from attar.stages.artifacts import Answers, OnnxModel, Ranges
from attar.stages.label.stage import Label
from attar.stages.learning.settings import TrainingSettings
from attar.stages.optimize import fp16
from attar.stages.optimize.tuning import distil_graph
from attar.stages.teach.stage import Teach
from tests.support.projects import tiny
from tests.support.proof.proof_parts import TEACHER, write_graph
from tests.support.stages.training import LEARN_SETTINGS, make_out
from tests.support.tasks import smoke
from tests.support.tasks.onnx_teacher import ONNX_TEACHER_RECIPE, DisjointPoints, write_circle_graph
from tests.support.tasks.smoke import artifact

Numbers = npt.NDArray[np.float32]


class Shares(DisjointPoints):
    outputs = {"logits": Output(("batch", 3), kind="probabilities", target="label")}


class Decisions(DisjointPoints):
    outputs = {"logits": Output(("batch", 3), kind="multilabel")}


class ProbableDigits(load_task(smoke.DIGITS).__class__):  # type: ignore[misc]  # the class that the name stands for
    outputs = {"logits": Output(("batch", 10), kind="probabilities", target="label")}


LOGITS, SHARES = "tests.support.tasks.onnx_teacher:DisjointPoints", "tests.stages.learning.test_probabilities:Shares"


def with_softmax(path: Path) -> Path:
    """The linear teacher, as it comes from elsewhere: with a softmax at its end."""
    write_graph(path, TEACHER)
    model = onnx.load(path)
    append_softmax(model, ["logits"])
    onnx.save(model, path)
    return path


def softmax(logits: npt.NDArray[Any]) -> Numbers:
    powers = np.exp(np.asarray(logits, np.float64))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def test_probabilities_declared_as_logits_are_refused(tmp_path: Path) -> None:
    file = with_softmax(tmp_path / "teacher.onnx")
    with pytest.raises(StageError, match=r"'logits' are declared as logits, but are probabilities: .* kind='probabilities'"):
        Teach(task=LOGITS, onnx=file).run(make_out(tmp_path))


def test_they_are_refused_when_answers_are_stored(tmp_path: Path) -> None:
    """Whatever the teacher was adopted as."""
    facts = Teach(task=SHARES, onnx=with_softmax(tmp_path / "teacher.onnx")).run(out := make_out(tmp_path))
    (tmp_path / "answers").mkdir()
    with pytest.raises(StageError, match=r"teacher's .*128 of 128"):
        Label(task=LOGITS, views=1, device="cpu").run(tmp_path / "answers", teacher=artifact(OnnxModel, out, facts))


def test_logits_declared_as_probabilities_are_refused(tmp_path: Path) -> None:
    write_graph(tmp_path / "teacher.onnx", TEACHER)
    with pytest.raises(StageError, match=r"sums .*kind='logits'"):
        Teach(task=SHARES, onnx=tmp_path / "teacher.onnx").run(make_out(tmp_path))


def test_what_is_stored_is_their_logarithm(tmp_path: Path) -> None:
    facts = Teach(task=SHARES, onnx=with_softmax(tmp_path / "teacher.onnx")).run(out := make_out(tmp_path))
    (tmp_path / "answers").mkdir()
    labelled = Label(task=SHARES, views=1, device="cpu").run(tmp_path / "answers", teacher=artifact(OnnxModel, out, facts))
    stored = artifact(Answers, tmp_path / "answers", labelled).read_split("test")["logits"]
    inputs = smoke.floats(Shares().split("test").take(np.arange(400)).inputs["x"])
    np.testing.assert_allclose(smoke.floats(stored), np.log(softmax(inputs / 2 @ TEACHER)), atol=1e-5)


@pytest.mark.parametrize(("dtype", "floor"), [("float16", 2.0**-24), ("float32", 2.0**-126), ("float64", 2.0**-126)])
def test_nothing_is_below_the_smallest_number(dtype: str, floor: float) -> None:
    found = to_logits("probabilities", np.array([[0.0, 0.25, 0.75]], dtype))
    np.testing.assert_allclose(found, [[math.log(floor), math.log(0.25), math.log(0.75)]], rtol=1e-3)


def test_a_half_precision_teacher_is_compared_above_its_own_floor() -> None:
    """The student has what the teacher rounds to 0."""
    exact = softmax(3 * np.random.default_rng(0).standard_normal((200, 1000)))
    stored = to_logits("probabilities", exact.astype(np.float16))
    assert stored.dtype == np.float32
    for expected in (exact.astype(np.float16), from_logits("probabilities", stored)):
        numbers = compare_outputs("probabilities", expected, exact).numbers
        assert numbers["correlation"] == pytest.approx(1, abs=2e-3)


def quantized(rows: npt.NDArray[Any]) -> Numbers:
    return np.asarray(np.round(rows * 255) / 255, np.float32)


def check_rows(kind: Kind, *parts: npt.NDArray[Any]) -> None:
    check = KindCheck("the teacher's", "y", kind)
    for part in parts:
        check.add(part)
    check.finish()


def test_a_quantized_softmax_is_told_from_logits() -> None:
    rows = quantized(softmax(2 * np.random.default_rng(0).standard_normal((64, 214))))
    assert np.abs(rows.sum(-1) - 1).max() > 0.02
    check_rows("probabilities", rows)
    with pytest.raises(StageError, match="are probabilities"):
        check_rows("logits", rows)


def test_rows_of_padding_do_not_hide_a_softmax() -> None:
    rows = np.zeros((8, 10, 5), np.float32)
    rows[:, :5] = 0.2
    with pytest.raises(StageError, match="are probabilities"):
        check_rows("logits", rows)


def test_a_short_last_piece_of_logits_may_look_like_probabilities() -> None:
    """As least squares on one-hot labels answers: every row sums to 1, and some entries are below 0."""
    likely, others = np.array([[0.25, 0.75]] * 4), np.array([[-0.1, 1.1]] * 128)
    check_rows("logits", others, likely)
    check_rows("logits", likely, others)


@pytest.mark.parametrize("rows", [[[0.2, 0.9]] * 8, [[0.31, 0.52, 0.07]] * 8, [[-0.5, 1.5]] * 8])
def test_other_numbers_are_no_probabilities(rows: list[list[float]]) -> None:
    with pytest.raises(StageError, match="declared as probabilities"):
        check_rows("probabilities", np.array(rows))


def test_a_softmax_is_found_behind_rounding_and_a_change_of_shape(tmp_path: Path) -> None:
    model = onnx.load(with_softmax(tmp_path / "teacher.onnx"))
    assert find_maker(model, "logits") == "Softmax"
    rename_tensor(model.graph, "logits", "inner")
    model.graph.node.append(onnx.helper.make_node("Cast", ["inner"], ["half"], to=onnx.TensorProto.FLOAT16))
    model.graph.node.append(onnx.helper.make_node("Identity", ["half"], ["logits"]))
    assert find_maker(model, "logits") == "Softmax"
    write_graph(tmp_path / "plain.onnx", TEACHER)
    assert find_maker(onnx.load(tmp_path / "plain.onnx"), "logits") != "Softmax"


def test_they_are_compared_as_logits_are() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 100, 5))
    of_logits = compare_outputs("logits", first, second).numbers
    found = compare_outputs("probabilities", softmax(first), softmax(second)).numbers
    for name in ("correlation", "correlation_per_sample", "correlation_probabilities", "kdl", "agreement"):
        assert found[name] == pytest.approx(of_logits[name], abs=1e-5)
    window = Window("probabilities", 100)
    window.add_samples(softmax(first), softmax(second))
    assert window.compute_numbers()["correlation"] == pytest.approx(of_logits["correlation"], abs=1e-5)


def test_a_network_answers_logits_and_its_predictor_probabilities() -> None:
    torch.manual_seed(0)
    network = nn.Linear(2, 3)
    check_network(network, Shares())
    x = np.array([[1, 2], [3, 4]], np.float32)
    expected = softmax(network(torch.from_numpy(x)).detach().numpy())
    np.testing.assert_allclose(smoke.floats(make_predictor(network, Shares())({"x": x})["logits"]), expected, rtol=1e-5)


@pytest.mark.parametrize("task", [DisjointPoints, Shares])
def test_a_network_that_ends_in_a_softmax_is_refused(task: type[DisjointPoints]) -> None:
    with pytest.raises(StageError, match=r"'logits' .*softmax"):
        check_network(nn.Sequential(nn.Linear(2, 3), nn.Softmax(-1)), task())


def ended(model: OnnxModel, path: Path) -> Path:
    graph = onnx.load(model.file())
    append_softmax(graph, ["logits"])
    onnx.save(graph, path)
    return path


def test_the_softmax_is_put_behind_a_graph_and_taken_away(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    x = load_task(smoke.DIGITS).example(np.random.default_rng(0), batch=4)
    graph = onnx.load(ended(digits_onnx, tmp_path / "ended.onnx"))
    with digits_onnx.open(1) as plain, onnxruntime.open_session({"model": tmp_path / "ended.onnx"}, 1) as likely:
        logits, got = smoke.floats(plain(x)["logits"]), smoke.floats(likely(x)["logits"])
    np.testing.assert_allclose(got, softmax(logits), rtol=1e-4)
    remove_softmax(graph, ["logits"])
    onnx.save(graph, tmp_path / "again.onnx")
    with onnxruntime.open_session({"model": tmp_path / "again.onnx"}, 1) as predict:
        np.testing.assert_array_equal(predict(x)["logits"], logits)


@pytest.mark.parametrize("logits", ["logits", "x"])
def test_logits_that_are_an_end_of_the_graph_stay_when_the_softmax_is_taken_away(logits: str) -> None:
    """Of a network that gives both, and of one that gives the probabilities of its input."""
    graph = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[2,3] x) => (float[2,3] logits, float[2,3] shares) {{
            logits = Relu(x)
            shares = Softmax({logits})
        }}""")
    remove_softmax(graph, ["shares"])
    onnx.checker.check_model(graph, full_check=True)
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    with onnxruntime.open_session({"model": graph.SerializeToString()}, 1) as predict:
        found = predict({"x": x})
    np.testing.assert_array_equal(found["shares"], x if logits == "x" else found["logits"])


def test_the_last_layer_and_the_softmax_stay_float(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    source, ranges = ended(digits_onnx, tmp_path / "ended.onnx"), digits_ranges.compute_ranges()
    before = {"logits.logits": ranges["logits"]}
    form = int8.QuantizationSpec(per_channel=True)
    kept = int8.write_int8_graph(source, tmp_path / "int8.onnx", {**ranges, **before}, form)
    assert "the last layer" in kept["float"].values()
    fp16.write_fp16_graph(source, tmp_path / "half.onnx", {**ranges, **before}, ProbableDigits(), ())
    half = onnx.load(tmp_path / "half.onnx")
    last = next(node for node in half.graph.node if node.op_type == "Softmax")
    assert (list(last.input), list(last.output)) == (["logits.logits"], ["logits"])


def test_a_graph_with_a_softmax_is_tuned_without_it(
    tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, own_answers: Answers
) -> None:
    """It learns as the same graph of logits does, up to the constants of rows that the answers are not told."""
    found: dict[str, float] = {}
    for task in (smoke.DIGITS, "tests.stages.learning.test_probabilities:ProbableDigits"):
        name, ranges = task.rpartition(":")[2], digits_ranges.compute_ranges()
        likely = name == "ProbableDigits"
        source = ended(digits_onnx, tmp_path / "ended.onnx") if likely else digits_onnx.file()
        reach = {**ranges, "logits.logits": ranges["logits"]}
        int8.write_int8_graph(source, tmp_path / f"{name}.onnx", reach, int8.QuantizationSpec(per_channel=False))
        learn = TrainingSettings(**{**LEARN_SETTINGS, "task": task, "epochs": 1, "device": "cpu"})
        (out := tmp_path / name / "out").mkdir(parents=True)
        of_task = replace(own_answers, facts={**own_answers.facts, "task": task})  # its logits are logarithms of both
        entry = distil_graph(source, tmp_path / f"{name}.onnx", tmp_path / "tuned.onnx", of_task, learn, out)["history"][0]
        found[name] = entry["correlation"]
    assert found["ProbableDigits"] == pytest.approx(found["Digits"], abs=1e-3)


@pytest.mark.slow
def test_a_whole_run_with_a_teacher_that_ends_in_a_softmax(tmp_path: Path) -> None:
    """Graph, int8, fp16 and bundle answer probabilities, and every hop agrees."""
    folder = tmp_path / "project"
    task = tiny.TASK.replace('target="inside"', 'kind="probabilities", target="inside"')
    more = '\n[targets.half]\nprecision = "fp16"\nthreads = 1\n\n[gates]'
    tiny.write(folder, task=task, recipe=ONNX_TEACHER_RECIPE.replace('"fp32"', '"int8"').replace("\n[gates]", more))
    write_circle_graph(folder / "teacher.onnx")
    model = onnx.load(folder / "teacher.onnx")
    append_softmax(model, ["logits"])
    onnx.save(model, folder / "teacher.onnx")
    (folder / "plain.py").write_text(tiny.TASK)
    wrong = tiny.attar(folder, "run", "recipe.toml", "--set", "task='plain.py:Circle'")
    assert wrong.returncode == 1
    assert "are probabilities" in " ".join((wrong.stdout + wrong.stderr).split())
    made = tiny.run(folder)
    assert {target["verdict"] for target in made["targets"].values()} == {"passed"}
    for name in ("cpu", "half"):
        hops = {hop["hop"]: hop for hop in tiny.entry(made, f"{name}.evidence")["facts"]["hops"]}
        assert hops["reference"]["teacher"]["largest_difference"] < 1e-4
        assert hops["engine"]["teacher"]["correlation"] > 0.8
        with attar.open(made["targets"][name]["bundle"]) as predict:
            got = predict(predict.preprocess({"point": np.array([[0.0, 0.1], [0.9, 0.9]], np.float32)}))["logits"]
        np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
        assert got.argmax(-1).tolist() == [1, 0]


def test_sigmoids_declared_as_multilabel_are_refused() -> None:
    """Those of a network that has learned: some are nearly 0, some nearly 1."""
    logits = 4 * np.random.default_rng(0).standard_normal((128, 3))
    check_rows("multilabel", logits[:64], logits[64:])
    with pytest.raises(StageError, match=r"declared as multilabel, .* sigmoid"):
        check_rows("multilabel", 1 / (1 + np.exp(-logits[:64])), 1 / (1 + np.exp(-logits[64:])))


def test_logits_of_a_teacher_that_knows_little_are_no_sigmoids() -> None:
    check_rows("multilabel", np.random.default_rng(0).uniform(0.25, 0.75, (500, 3)))


def test_an_adopted_teacher_that_ends_in_a_sigmoid_is_refused(tmp_path: Path) -> None:
    write_graph(tmp_path / "teacher.onnx", TEACHER)
    model = onnx.load(tmp_path / "teacher.onnx")
    rename_tensor(model.graph, "logits", "inner")
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["inner"], ["logits"]))
    onnx.save(model, tmp_path / "sigmoid.onnx")
    decisions = "tests.stages.learning.test_probabilities:Decisions"
    Teach(task=decisions, onnx=tmp_path / "teacher.onnx").run(make_out(tmp_path, "plain"))
    with pytest.raises(StageError, match=r"'logits' are declared as multilabel, .* sigmoid"):
        Teach(task=decisions, onnx=tmp_path / "sigmoid.onnx").run(make_out(tmp_path))

"""fp16: graphs that overflow on purpose, where calibration sees it and where only a run does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from attar.engines.graphs.inspection import count_nodes
from attar.engines.graphs.preparation import name_nodes
from attar.engines.runtimes import onnxruntime
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.optimize import fp16
from attar.stages.optimize.stage import Optimize
from tests.support.engines.graph_texts import HEADER, OVERFLOWING, SEEN_RANGES, UNSEEN_RANGES, write_parsed_graph
from tests.support.tasks import smoke


def converted(folder: Path, text: str, ranges: Mapping[str, tuple[float, float]], **settings: Any) -> tuple[Facts, Path]:
    target = folder / "half.onnx"
    given = {"exclude": (), **settings}
    return fp16.write_fp16_graph(write_parsed_graph(folder, text), target, ranges, smoke.ThreeNumbers(), **given), target


def apart(folder: Path, target: Path) -> float:
    """The largest relative difference on all samples, which range up to 99.5."""
    inputs = {"x": smoke.ThreeNumbers().numbers()}
    with onnxruntime.open_session({"a": folder / "model.onnx", "b": target}, 1, optimize=False) as predict:
        a, b = (smoke.floats(predict.graphs[name](inputs)["y"]) for name in ("a", "b"))
    return float(np.abs(a - b).max() / np.abs(a).max())


def test_what_calibration_saw_is_float_from_the_start(tmp_path: Path) -> None:
    facts, target = converted(tmp_path, OVERFLOWING, SEEN_RANGES)
    assert facts == {
        "half": {"MatMul": 2},
        "float": {"Mul_1": "'b' reaches 9.95e+04", "Relu_2": "'c' reaches 9.95e+04", "Mul_3": "'c' reaches 9.95e+04"},
        "rounds": 1,
    }
    assert apart(tmp_path, target) < 1e-3
    assert count_nodes([target]) == {"Cast": 4, "MatMul": 2, "Mul": 2, "Relu": 1}


def test_what_only_a_run_shows_becomes_an_island(tmp_path: Path) -> None:
    """First ``b`` overflows, with whatever is made of it; then ``c``, whose reader is half still."""
    facts, target = converted(tmp_path, OVERFLOWING, UNSEEN_RANGES)
    why = {"Mul_1": "'b'", "Relu_2": "'b'", "Mul_3": "'c'"}
    assert facts["float"] == {name: f"{tensor} is not finite in half precision" for name, tensor in why.items()}
    assert facts["half"] == {"MatMul": 2}
    assert facts["rounds"] == 3
    assert apart(tmp_path, target) < 1e-3


def test_what_is_lost_without_overflow_is_seen_too(tmp_path: Path) -> None:
    """1e-9 is 0 in half precision: all is finite, and the answer is gone."""
    text = OVERFLOWING.replace("{1000}", "{1e-9}").replace("{0.001}", "{1e9}")
    facts, target = converted(tmp_path, text, dict.fromkeys(SEEN_RANGES, (0.0, 99.0)))
    assert "more than 0.1" in facts["float"]["Mul_1"]
    assert facts["half"] == {"MatMul": 2}
    assert apart(tmp_path, target) < 1e-3


def test_stricter_asks_for_more_islands(tmp_path: Path) -> None:
    """4096 + x, rounded to steps of 4, less 4096: the error is 1 to 2 of up to 99."""
    text = f"""{HEADER} g (float[batch,3] x) => (float[batch,3] y) <float[3,3] w = {{1,0,0,0,1,0,0,0,1}}, float k = {{4096}}> {{
        m = MatMul(x, w)
        a = Add(m, k)
        b = Sub(a, k)
        y = MatMul(b, w)
    }}"""
    loose, _ = converted(tmp_path, text, {})
    strict, target = converted(tmp_path, text, {}, allowed=0.001)
    assert loose["float"] == {}
    assert strict["float"].keys() == {"Sub_2", "MatMul_3", "Add_1"}  # what makes and reads b, and then what it was made of
    assert strict["half"] == {"MatMul": 1}
    assert apart(tmp_path, target) < 1e-3


def test_excluded_nodes_stay_float(tmp_path: Path) -> None:
    facts, _ = converted(tmp_path, OVERFLOWING, SEEN_RANGES, exclude=["MatMul_0"])
    assert facts["float"]["MatMul_0"] == "excluded by the recipe"
    assert facts["half"] == {"MatMul": 1}
    with pytest.raises(StageError, match="exclude names a node 'MatMul_1' that the graph does not have; did you mean 'MatMul_"):
        converted(tmp_path, OVERFLOWING, SEEN_RANGES, exclude=["MatMul_1"])


def test_a_graph_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    text = f"{HEADER} g (float[batch,3] x) => (float[batch,3] y) <float up = {{1e6}}> {{ y = Mul(x, up) }}"
    with pytest.raises(UnsupportedModelError, match=r"'Mul_0' .*1e\+06.*'fp32'"):
        converted(tmp_path, text, {})


def test_an_overflow_that_no_island_cures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too few rounds for what the calibration did not see."""
    monkeypatch.setattr(fp16, "ROUNDS", 1)
    with pytest.raises(UnsupportedModelError, match=r"'Mul_1': 'b' .*'bf16'"):
        converted(tmp_path, OVERFLOWING, UNSEEN_RANGES)


def test_a_target_whose_model_overflows(tmp_path: Path) -> None:
    """Its graph has islands, inputs and outputs are float, and ``exclude`` keeps more of it float."""
    root = tmp_path / "onnx"
    root.mkdir()
    write_parsed_graph(root, OVERFLOWING)
    facts = {
        "task": "tests.support.tasks.smoke:ThreeNumbers",
        "graphs": ["model"],
        "opset": 20,
        "inputs": {},
        "outputs": {},
        "parameters": 9,
    }
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": smoke.known(UNSEEN_RANGES)}
    asked = Optimize(task="tests.support.tasks.smoke:ThreeNumbers", precision="fp16", exclude=("MatMul_4",))
    made = dict(asked.run(tmp_path, onnx=smoke.artifact(OnnxModel, root, facts), **given))
    assert made == {
        **facts,
        "precision": "fp16",
        "half": {"MatMul": 1},
        "float": {
            "Mul_1": "'b' is not finite in half precision",
            "Relu_2": "'b' is not finite in half precision",
            "Mul_3": "'c' is not finite in half precision",
            "MatMul_4": "excluded by the recipe",
        },
        "rounds": 3,
    }
    types = [value.type.tensor_type.elem_type for value in ends(onnx.load(tmp_path / "model.onnx"))]
    assert types == [onnx.TensorProto.FLOAT] * 2


def ends(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return [*model.graph.input, *model.graph.output]


def test_the_image_student(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": digits_ranges}
    asked = Optimize(task=smoke.DIGITS, precision="fp16")
    made = [smoke.artifact(OnnxModel, tmp_path / name, {}) for name in ("one", "two")]
    for each in made:
        each.root.mkdir()
        facts = asked.run(each.root, onnx=digits_onnx, **given)
    assert (facts["precision"], facts["float"], facts["rounds"]) == ("fp16", {}, 1)
    assert facts["half"]["Conv"] == 9
    assert made[0].file().read_bytes() == made[1].file().read_bytes()
    assert made[0].file().stat().st_size < 0.6 * digits_onnx.file().stat().st_size
    assert asked.reading() == {"onnx", "calibration"}
    assert asked.deciding() == {"precision", "exclude", "task"}


def test_a_sequence_is_not_compared(tmp_path: Path) -> None:
    text = f"""{HEADER}
        split (float[batch,3] x) => (float[batch,1] y) <int64 one = {{1}}, float[3,3] w = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}> {{
            a = MatMul(x, w)
            parts = SplitToSequence<axis = 1>(a, one)
            y = SequenceAt(parts, one)
        }}"""
    facts, target = converted(tmp_path, text, {})
    assert facts == {"half": {"MatMul": 1}, "float": {}, "rounds": 1}
    assert apart(tmp_path, target) < 0.001


def test_the_nearest_half_node_is_found_past_branches_that_join_again() -> None:
    """Each block doubles the number of paths back."""
    blocks = 60
    lines = [f"a{n} = Relu(t{n}) b{n} = Sigmoid(t{n}) t{n + 1} = Add(a{n}, b{n})" for n in range(blocks)]
    text = '<ir_version: 9, opset_import: ["" : 20]> g (float[4] x) => (float[4] out) { t0 = Neg(x) '
    model = onnx.parser.parse_model(text + " ".join(lines) + f" out = Identity(t{blocks}) }}")
    name_nodes(model)
    assert fp16.find_nearest_half_nodes(model, {"Neg_0"}, {"out": "overflows"}) == {"Neg_0": "overflows"}

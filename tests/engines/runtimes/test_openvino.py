"""OpenVINO itself, on this machine's CPU."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from attar.engines import cpu
from attar.engines.parity import list_proven_sizes, measure_largest_difference
from attar.engines.runtimes import openvino
from attar.engines.runtimes.openvino import OpenVino
from attar.engines.runtimes.runtime import BuildSpec, load_runtime
from attar.models.task import Array, Arrays, load_task
from attar.pipeline.core.errors import MissingDependencyError, StageError, UnsupportedModelError
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.export.stage import Export
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke

IMAGE = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
DIGITS = load_task(smoke.DIGITS)
needs_bf16 = pytest.mark.skipif(not openvino.NATIVE["bf16"] & cpu.cpu_flags(), reason="a CPU without bf16 arithmetic")


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges) -> OnnxModel:
    out = tmp_path_factory.mktemp("int8")
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": digits_ranges}
    return smoke.artifact(OnnxModel, out, Optimize(task=smoke.DIGITS, precision="int8").run(out, onnx=digits_onnx, **given))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel) -> Path:
    file = tmp_path_factory.mktemp("engine") / "model.blob"
    OpenVino().build(digits_onnx.file(), file, BuildSpec())
    return file


def difference(folder: Path, model: OnnxModel, asked: BuildSpec) -> float:
    """Between the graph in ONNX Runtime and its engine, at every size that is promised."""
    file = folder / "model.blob"
    OpenVino().build(model.file(), file, asked)
    with model.open(threads=1) as expected, OpenVino().open({"model": file}, asked) as got:
        return measure_largest_difference(DIGITS, expected, got, 1.0, "")


def test_each_precision_is_computed_and_none_is_another(tmp_path: Path, digits_onnx: OnnxModel, int8: OnnxModel) -> None:
    assert difference(tmp_path, digits_onnx, BuildSpec("fp32")) < 1e-5
    assert difference(tmp_path, int8, BuildSpec("int8")) < 1e-2


@needs_bf16
def test_bf16_rounds_to_eight_bits(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    assert 1e-5 < difference(tmp_path, digits_onnx, BuildSpec("bf16")) < 5e-2


def test_int8_that_nothing_computes_is_refused(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    with pytest.raises(UnsupportedModelError, match=r"int8, .*Convolution in f32"):
        OpenVino().build(digits_onnx.file(), tmp_path / "model.blob", BuildSpec("int8"))
    assert list(tmp_path.iterdir()) == []


MERGED = {
    "an input": """
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,4] x) => (float[batch,4] y) <float l = {-9}, float h = {9}, float s = {0.0625}, uint8 z = {128}> {
            clipped = Clip(x, l, h)
            a = QuantizeLinear(clipped, s, z)
            b = DequantizeLinear(a, s, z)
            y = Relu(b)
        }""",
    "an output": """
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,4] x) => (float[batch,4] dropped, float[batch,4] y) {
            y = Relu(x)
            dropped = Dropout(y)
        }""",
}


@pytest.mark.parametrize("end", MERGED)
def test_ends_keep_their_names_where_nodes_beside_them_are_removed(tmp_path: Path, end: str) -> None:
    source, target = tmp_path / "model.onnx", tmp_path / "model.blob"
    onnx.save(onnx.parser.parse_model(MERGED[end]), source)
    OpenVino().build(source, target, BuildSpec())
    with OpenVino().open({"model": target}, BuildSpec()) as predict:
        found = predict({"x": np.array([[-1, 0.5, 2, 3]], np.float32)})
    assert found.keys() == {"y"} | ({"dropped"} if end == "an output" else set())
    for array in found.values():
        np.testing.assert_array_equal(array, [[0, 0.5, 2, 3]])


JOINED = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,3,8,8] x) => (float[batch,6,8,8] y) <float s = {0.03}, uint8 z = {128}, float t = {0.015}, uint8 n = {0}> {
        a = QuantizeLinear(x, s, z)
        b = DequantizeLinear(a, s, z)
        c = Concat<axis = 1>(b, b)
        d = QuantizeLinear(c, s, z)
        e = DequantizeLinear(d, s, z)
        f = Relu(e)
        h = QuantizeLinear(f, t, n)
        y = DequantizeLinear(h, t, n)
    }"""


def test_a_crash_of_openvino_is_an_error(tmp_path: Path) -> None:
    """OpenVINO 2026.4 crashes on this graph (SIGSEGV); if another version does not, it builds it."""
    source, target = tmp_path / "model.onnx", tmp_path / "model.blob"
    onnx.save(onnx.parser.parse_model(JOINED), source)
    told = ""
    try:
        OpenVino().build(source, target, BuildSpec())
    except StageError as error:
        told = str(error)
    assert target.exists() or told.startswith("building model.blob with OpenVINO crashed the process that did it (SIG")


def test_the_same_graph_gives_the_same_answers_on_two_threads(engine: Path) -> None:
    with OpenVino().open({"model": engine}, BuildSpec()) as one, OpenVino().open({"model": engine}, BuildSpec(threads=2)) as two:
        first, second = (smoke.floats(predict({"image": IMAGE})["logits"]) for predict in (one, two))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_dynamic_axes_of_two_outputs(tmp_path: Path) -> None:
    weights = smoke.weights(tmp_path / "weights", "tests.support.tasks.smoke:two", "tests.support.tasks.smoke:Images")
    (tmp_path / "onnx").mkdir()
    model = smoke.artifact(OnnxModel, tmp_path / "onnx", Export().run(tmp_path / "onnx", weights=weights))
    task = smoke.Images()
    OpenVino().build(model.file(), tmp_path / "model.blob", BuildSpec())
    with model.open(threads=1) as expected, OpenVino().open({"model": tmp_path / "model.blob"}, BuildSpec()) as got:
        assert len(list_proven_sizes(task)) > 5
        assert measure_largest_difference(task, expected, got, 1e-5, "") < 1e-5


def test_answers_are_the_callers_own(engine: Path) -> None:
    with OpenVino().open({"model": engine}, BuildSpec()) as predict:
        first = predict({"image": IMAGE})["logits"]
        before = first.copy()
        predict({"image": IMAGE + 1})
        np.testing.assert_array_equal(first, before)
        assert first.dtype == np.float32


def read_only(image: Array) -> Array:
    copy = image.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize("form", [read_only, np.asfortranarray, lambda image: np.repeat(image, 2, axis=3)[..., ::2]])
def test_inputs_in_any_memory(engine: Path, form: Any) -> None:
    with OpenVino().open({"model": engine}, BuildSpec()) as predict:
        np.testing.assert_array_equal(predict({"image": form(IMAGE)})["logits"], predict({"image": IMAGE})["logits"])


def test_several_threads_may_ask(engine: Path) -> None:
    images = [IMAGE * scale for scale in range(8)]
    with OpenVino().open({"model": engine}, BuildSpec()) as predict:
        expected = [predict({"image": image})["logits"] for image in images]
        wrong: list[int] = []

        def ask(number: int) -> None:
            got = [predict({"image": images[number]})["logits"] for _ in range(50)]
            wrong.extend(number for each in got if not np.array_equal(each, expected[number]))

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(images))]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"the graph wants an input 'image' \(float32 \[\?, 1, 8, 8\]\) and got none"),
        ({"picture": IMAGE}, r"'image' .*got picture"),
        ({"image": IMAGE, "imag": IMAGE}, r"'imag'.*'image'\?"),
        ({"image": IMAGE.astype(np.float64)}, r"'image' .* float64 \[2, 1, 8, 8\]"),
        ({"image": IMAGE.astype(">f4")}, "byte order"),
        ({"image": IMAGE[..., :4]}, r"'image' .* float32 \[2, 1, 8, 4\]"),
    ],
)
def test_wrong_inputs_are_named_and_the_next_call_is_answered(engine: Path, inputs: Arrays, message: str) -> None:
    with OpenVino().open({"model": engine}, BuildSpec()) as predict:
        predict({"image": IMAGE})
        with pytest.raises(StageError, match=message):
            predict(inputs)
        assert len(predict({"image": IMAGE})["logits"]) == 2


def test_an_operator_that_it_does_not_have_is_named(tmp_path: Path) -> None:
    refused = OpenVino().find_refused_nodes(smoke.strange(tmp_path), BuildSpec())
    assert [(each.operator, each.why) for each in refused] == [("my.ops:Strange", "OpenVINO does not have it")]


@pytest.mark.parametrize(("told", "operator"), [("Det-20", "Det"), ("my.ops.Strange", "my.ops:Strange"), ("a.B-1", "a:B")])
def test_operators_as_onnx_writes_them(told: str, operator: str) -> None:
    assert openvino.parse_operator(told) == operator


def test_a_graph_that_it_takes(digits_onnx: OnnxModel, int8: OnnxModel) -> None:
    assert OpenVino().find_refused_nodes(digits_onnx.file(), BuildSpec()) == []
    assert OpenVino().find_refused_nodes(int8.file(), BuildSpec("int8")) == []


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    for step in (OpenVino().find_refused_nodes, lambda *given: OpenVino().build(given[0], tmp_path / "model.blob", *given[1:])):
        with pytest.raises(StageError, match=r"OpenVINO.*model\.onnx"):
            step(tmp_path / "model.onnx", BuildSpec())
    assert not (tmp_path / "model.blob").exists()


def spoiled(engine: Path, how: str) -> bytes | None:
    content = engine.read_bytes()
    made = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "a graph": b"\x08\x0a" * 500,
        "another version": content.replace(b"ov=20", b"ov=19", 1),
        "another CPU": content.replace(b"isa=" + content.partition(b"isa=")[2][:3], b"isa=New", 1),
    }
    return made.get(how)


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "a graph", "another version", "another CPU"])
def test_an_engine_that_is_none_or_is_for_another_place(tmp_path: Path, engine: Path, how: str) -> None:
    file, content = tmp_path / "model.blob", spoiled(engine, how)
    if content is not None:
        file.write_bytes(content)
    with (
        pytest.raises(StageError, match=r"OpenVINO.*model\.blob"),
        OpenVino().open({"model": file}, BuildSpec()),
    ):
        pass


def test_less_than_one_thread(engine: Path) -> None:
    with pytest.raises(StageError, match="0 threads"), OpenVino().open({"model": engine}, BuildSpec(threads=0)):
        pass


@pytest.mark.parametrize(("precision", "native"), [("bf16", "amx_bf16 or avx512_bf16"), ("fp16", "amx_fp16 or asimdhp")])
def test_arithmetic_that_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch, precision: str, native: str) -> None:
    monkeypatch.setattr(openvino, "cpu_flags", lambda: {"avx2"})
    why = OpenVino().explain_unbuildable(BuildSpec(precision))
    assert why is not None
    assert f"{precision} arithmetic ({native}" in why
    assert OpenVino().explain_unbuildable(BuildSpec("fp32")) is None


def test_the_library_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"OpenVINO.*'attar\[openvino\]'"):
        OpenVino().describe_environment()


def test_an_engine_depends_on_version_and_cpu() -> None:
    environment = load_runtime("openvino").describe_environment()
    assert environment.version.replace(".", "").isdigit()
    assert environment.machine == cpu.describe_machine()
    assert replace(environment, version="1.0") != environment

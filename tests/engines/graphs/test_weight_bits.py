"""Weights of 7 bits: what they are in the graph, that no kernel saturates with them, and when they are the default."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from attar.bundle import triton
from attar.bundle.opening import check_portable
from attar.bundle.verified import read_manifest
from attar.engines import cpu
from attar.engines.graphs import int8
from attar.engines.graphs import int8_dynamic as dynamic
from attar.engines.graphs.placement import LEVELS, SYMMETRIC, UNSIGNED, Placement
from attar.engines.runtimes import onnxruntime, openvino
from attar.engines.runtimes.runtime import BuildSpec, Runtime
from attar.models.task import Predictor
from attar.stages.artifacts import OnnxModel
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke

Floats = npt.NDArray[np.float32]
STEP = 2.0**12  # of what comes out: a power of two, so that a sum of integers is rounded once, and the same everywhere
SHAPES = {  # of a sample and of a weight, groups: the kernels of MLAS differ
    "wide": ((16, 6, 6), (16, 16, 3, 3), 1),
    "narrow": ((5, 6, 6), (7, 5, 3, 3), 1),
    "widened": ((12, 6, 6), (12, 12, 3, 3), 1),
    "pointwise": ((32, 6, 6), (32, 32, 1, 1), 1),
    "depthwise": ((16, 6, 6), (16, 1, 3, 3), 16),
    "grouped": ((16, 6, 6), (16, 8, 3, 3), 2),
}
PRODUCTS = ("MatMul", "Gemm")
SATURATING = ("narrow", "pointwise", "grouped", *PRODUCTS)
"""Where 8 bits are seen to be wrong on AVX2."""


def drawn(shape: tuple[int, ...], *values: float) -> Floats:
    return np.random.default_rng(0).choice(np.array(values, np.float32), shape)


def made(case: str, largest: float) -> tuple[onnx.ModelProto, Floats]:
    """One multiplying node, with weights of the largest magnitude alone, and samples of the most and the least of a u8."""
    sample: tuple[int, ...]
    weight: tuple[int, ...]
    if case in PRODUCTS:
        sample, weight, call = (64,), (64, 32), f"p = {case}(x, weight)  n = Neg(p)  y = Neg(n)"
    else:
        sample, weight, groups = SHAPES[case]
        call = f"y = Conv<group = {groups}>(x, weight)"
    axes = ",".join(map(str, sample))
    results = "c" if case in PRODUCTS else "c,h,w"
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> g (float[batch,{axes}] x) => (float[batch,{results}] y) {{ {call} }}'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(drawn(weight, largest, -largest), "weight"))
    return model, drawn((8, *sample), 0, 255)


def quantized(folder: Path, case: str, bits: int) -> tuple[Path, Floats, npt.NDArray[np.float64]]:
    """The int8 graph, samples, and its answers: sums of integers, rounded to steps by numpy."""
    model, x = made(case, LEVELS[bits])
    onnx.save(model, folder / "float.onnx")
    results = (-128 * STEP, 127 * STEP)
    ranges = {"x": (0.0, 255.0), "p": results, "y": results}
    int8.write_int8_graph(folder / "float.onnx", folder / "int8.onnx", ranges, int8.QuantizationSpec(weight_bits=bits))
    return folder / "int8.onnx", x, np.clip(np.rint(sums(model, x) / STEP), -128, 127) * STEP


def sums(model: onnx.ModelProto, x: Floats) -> npt.NDArray[np.float64]:
    """Of integers, in numpy; all below 2 ** 24, so that float32 holds them exactly."""
    found: Any = ReferenceEvaluator(model).run(None, {"x": x})
    return smoke.floats(found[0])


def engine(file: Path, runtime: Runtime) -> AbstractContextManager[Predictor]:
    asked, target = BuildSpec("int8"), file.with_name(f"engine{runtime.suffix}")
    runtime.build(file, target, asked)
    return runtime.open({"model": target}, asked)


@pytest.mark.parametrize("case", [*SHAPES, *PRODUCTS])
def test_with_7_bits_every_kernel_answers_what_integers_do(tmp_path: Path, case: str) -> None:
    file, x, exact = quantized(tmp_path, case, 7)
    assert len(np.unique(exact)) > 10
    for opened in (onnxruntime.open_session({"model": file}, 1), engine(file, onnxruntime.OnnxRuntime())):
        with opened as predict:
            np.testing.assert_array_equal(predict({"x": x})["y"], exact)


@pytest.mark.parametrize("case", [*SHAPES, *PRODUCTS])
def test_those_of_openvino_too(tmp_path: Path, case: str) -> None:
    pytest.importorskip("openvino", reason="without OpenVINO")
    file, x, exact = quantized(tmp_path, case, 7)
    with engine(file, openvino.OpenVino()) as predict:
        np.testing.assert_array_equal(predict({"x": x})["y"], exact)


@pytest.mark.parametrize("case", SATURATING)
def test_with_8_bits_they_do_where_the_cpu_does_not_saturate(tmp_path: Path, case: str) -> None:
    """And only there: this is what the default follows."""
    file, x, exact = quantized(tmp_path, case, 8)
    with engine(file, onnxruntime.OnnxRuntime()) as predict:
        wrong = np.abs(smoke.floats(predict({"x": x})["y"]) - exact)
    assert bool(wrong.max() > STEP) is cpu.has_saturating_int8()


def test_dynamic_products_of_7_bits_answer_what_integers_do(tmp_path: Path) -> None:
    """The range of the batch is 0 to 255, so that its scale is 1."""
    model, x = made("MatMul", LEVELS[7])
    model.graph.node[-1].op_type = "Relu"
    onnx.save(model, tmp_path / "float.onnx")
    facts = dynamic.write_dynamic_int8_graph(tmp_path / "float.onnx", tmp_path / "int8.onnx", True, (), 7)
    assert facts["weight_bits"] == 7
    assert largest(onnx.load(tmp_path / "int8.onnx"), "weight_quantized") == 64
    with engine(tmp_path / "int8.onnx", onnxruntime.OnnxRuntime()) as predict:
        np.testing.assert_array_equal(predict({"x": x})["y"], sums(model, x))


def largest(model: onnx.ModelProto, name: str) -> int:
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert found[name].dtype == np.int8
    return int(np.abs(found[name].astype(np.int64)).max())


@pytest.mark.parametrize("placement", [UNSIGNED, SYMMETRIC], ids=lambda each: each.name)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("bits", "most"), [(8, 127), (7, 64)])
def test_the_largest_weight_has_the_largest_level(
    tmp_path: Path, placement: Placement, per_channel: bool, bits: int, most: int
) -> None:
    """By hand: 3.2 over 64 levels is a scale of 0.05, so that 1.0 is 20. Only weights are reduced, no activation and no constant
    that is rounded like one; a weight on the left has one scale."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
        g (float[batch,4,1,1] x) => (float[batch,2,1,1] y) {
            c = Conv(x, weight)
            s = Add(c, offset)
            r = Relu(s)
            p = MatMul(left, r)
            y = Relu(p)
        }""")
    values: dict[str, Any] = {"weight": [[3.2, 1.0, -1.6, 0.8], [-6.4, 1.0, 0, 0]], "offset": [[[1.0]], [[2.0]]], "left": [[3.2]]}
    shapes = {"weight": (2, 4, 1, 1), "offset": (2, 1, 1), "left": (1, 1)}
    for name, value in values.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32).reshape(shapes[name]), name))
    onnx.save(model, tmp_path / "float.onnx")
    ranges = dict.fromkeys("xcsrpy", (0.0, 2.55)) | {"offset": (0.0, 2.0)}
    form = int8.QuantizationSpec(placement, per_channel, weight_bits=bits)
    facts = int8.write_int8_graph(tmp_path / "float.onnx", tmp_path / "int8.onnx", ranges, form)
    assert facts["weight_bits"] == bits
    found = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    scales = np.array([3.2, 6.4] if per_channel else [6.4, 6.4], np.float32) / most
    np.testing.assert_allclose(np.broadcast_to(found["weight_scale"], 2), scales, rtol=1e-6)
    expected = np.rint(np.array(values["weight"], np.float32) / scales[:, None])
    np.testing.assert_array_equal(found["weight_quantized"].reshape(2, 4), expected)
    assert np.abs(expected).max() == found["left_quantized"].max() == most
    if placement is UNSIGNED:
        assert found["offset_quantized"].max() == 255
        assert found["x_scale"] == np.float32(0.01)


def decided(**settings: Any) -> dict[str, Any]:
    stage = Optimize(task=smoke.DIGITS, **settings)
    return stage.model_dump(include=set(stage.deciding()))


ON = {  # architecture and flags of a CPU, and the bits that follow
    "AVX2": ("x86_64", {"avx2"}, 7),
    "AVX512 without VNNI": ("x86_64", {"avx2", "avx512f", "avx512bw"}, 7),
    "AVX512-VNNI": ("x86_64", {"avx2", "avx512f", "avx512_vnni"}, 8),
    "AVX-VNNI": ("AMD64", {"avx2", "avx_vnni"}, 8),
    "AMX": ("x86_64", {"avx2", "amx_int8"}, 8),
    "Arm": ("aarch64", {"asimd"}, 8),
}


@pytest.mark.parametrize("kind", ON)
@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_left_out_the_cpu_decides(monkeypatch: pytest.MonkeyPatch, kind: str, precision: str) -> None:
    """Alike, the artifact is shared: nothing else of the machine decides, and what was asked for in words counts the same."""
    architecture, flags, bits = ON[kind]
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    assert cpu.has_saturating_int8() is (bits == 7)
    for runtime in ("onnxruntime", "openvino")[: 2 if precision == "int8" else 1]:
        asked = {"precision": precision, "runtime": runtime}
        assert decided(**asked)["weight_bits"] == bits
        assert decided(**asked) == decided(**asked, reduce_range=bits == 7)
        assert decided(**asked) != decided(**asked, reduce_range=bits == 8)
        assert "reduce_range" not in decided(**asked, reduce_range=True)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_for_tensorrt_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_flags", lambda: {"avx2"})
    assert decided(precision="int8", runtime=runtime)["weight_bits"] == 8
    assert decided(precision="int8", runtime=runtime, reduce_range=True)["weight_bits"] == 7


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_no_other_precision_depends_on_it(precision: str) -> None:
    asked = {"precision": precision, "runtime": "openvino"}
    assert decided(**asked) == decided(**asked, reduce_range=True) == decided(**asked, reduce_range=False)


@pytest.mark.parametrize("operator", PRODUCTS)
def test_a_graph_for_gpus_is_computed_as_it_is_written(tmp_path: Path, operator: str) -> None:
    """It keeps 8 bits, and on AVX2 the kernels that ONNX Runtime fuses were off by nine tenths of an answer."""
    text = f"p = {operator}(x, w)  r = Relu(p)  q = {operator}(r, v)  y = Relu(q)"
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 18]> g (float[batch,256] x) => (float[batch,64] y) {{ {text} }}'
    )
    for name, width in (("w", 256), ("v", 64)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(drawn((256, width), 0.1, -0.1), name))
    onnx.save(model, tmp_path / "float.onnx")
    ranges = {"x": (-2.0, 2.0), "p": (-9.0, 9.0), "r": (0.0, 9.0), "q": (-9.0, 9.0), "y": (0.0, 9.0)}
    facts = int8.write_int8_graph(tmp_path / "float.onnx", tmp_path / "model.onnx", ranges, int8.QuantizationSpec(SYMMETRIC))
    hop = smoke.artifact(OnnxModel, tmp_path, {**facts, "graphs": ["model"], "precision": "int8"})
    x = {"x": drawn((32, 256), 0, 2)}
    with hop.open(threads=1) as got, onnxruntime.open_session({"model": hop.file()}, 1, optimize=False) as exact:
        np.testing.assert_allclose(smoke.floats(got(x)["y"]), smoke.floats(exact(x)["y"]), atol=1e-5)


@pytest.mark.parametrize(
    ("runtime", "placement"), [("onnxruntime", "unsigned"), ("openvino", "unsigned"), ("tensorrt", "symmetric")]
)
def test_and_so_is_that_of_its_bundle(points_bundle: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, placement: str) -> None:
    manifest = read_manifest(points_bundle)
    engine = manifest.engine.model_copy(update={"runtime": runtime})
    found = []

    def record(*given: Any, **options: Any) -> AbstractContextManager[Predictor]:
        found.append(options["placement"])
        return real(*given, **options)

    real = onnxruntime.open_session
    monkeypatch.setattr(onnxruntime, "open_session", record)
    monkeypatch.setattr(triton, "check_repository", lambda *given: None)  # which is of the runtime that packaged it
    check_portable(points_bundle, manifest.model_copy(update={"engine": engine}))
    assert found == [placement]

"""Where Q-DQ pairs stand for each runtime, from one calibration; TensorRT-RTX itself parses and builds what is meant for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from attar.engines.graphs import int8
from attar.engines.graphs import int8_dynamic as dynamic
from attar.engines.graphs.exposure import reveal_tensors
from attar.engines.graphs.half_precision import halve_float_nodes
from attar.engines.graphs.placement import MULTIPLYING, PLACEMENTS
from attar.engines.runtimes import onnxruntime
from attar.models.tasks.digits import Digits
from attar.models.views import iterate_clean
from attar.pipeline.core.errors import UnsupportedModelError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import OnnxModel, Ranges
from attar.stages.optimize.stage import Optimize
from tests.support.tasks import smoke


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel, digits_ranges: Ranges) -> OnnxModel:
    return optimized(tmp_path_factory.mktemp("symmetric"), digits_onnx, digits_ranges, precision="int8", runtime="tensorrt")


def optimized(out: Path, model: OnnxModel, ranges: Ranges, **settings: Any) -> OnnxModel:
    out.mkdir(exist_ok=True)
    given: dict[str, Any] = {"student": smoke.NOBODY, "answers": smoke.UNASKED, "calibration": ranges}
    return smoke.artifact(OnnxModel, out, Optimize(task=smoke.DIGITS, **settings).run(out, onnx=model, **given))


def test_the_form_that_tensorrt_takes(symmetric: OnnxModel) -> None:
    """s8 throughout, zero points of 0, a float bias, int8 weights; pairs before what multiplies and none behind it."""
    graph = onnx.load(symmetric.file()).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(constants[node.input[2]].any() for node in pairs)
    makers = {node.output[0]: node for node in graph.node}
    int8 = [node for node in graph.node if node.op_type in MULTIPLYING and node.input[0] in makers]
    int8 = [node for node in int8 if makers[node.input[0]].op_type == "DequantizeLinear"]
    assert len(int8) == symmetric.facts["quantized"]["Conv"] == 8
    assert {constants[node.input[2]].dtype for node in int8} == {np.dtype(np.float32)}
    results = {node.output[0] for node in int8}
    assert not results & {node.input[0] for node in pairs}
    assert symmetric.facts["placement"] == "symmetric"


def test_both_forms_keep_the_answers(tmp_path: Path, symmetric: OnnxModel, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    unsigned = optimized(tmp_path, digits_onnx, digits_ranges, precision="int8", runtime="openvino")
    assert unsigned.file().read_bytes() != symmetric.file().read_bytes()
    inputs = next(iterate_clean(Digits(), Digits().split("validation"))).inputs
    found = []
    for model in (digits_onnx, symmetric, unsigned):
        with model.open(threads=1) as predict:
            logits = smoke.floats(predict(inputs)["logits"])
        found.append((logits - logits.mean(1, keepdims=True)).ravel())
    for rounded in found[1:]:
        assert 0.995 < np.corrcoef(found[0], rounded)[0, 1] < 1 - 1e-9


@pytest.mark.parametrize("asked", [{"precision": "int8"}, {"precision": "fp16"}], ids=lambda asked: asked["precision"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges, asked: dict[str, Any]) -> None:
    made = optimized(tmp_path / "out", digits_onnx, digits_ranges, runtime="tensorrt-rtx", **asked)
    assert built(made.file(), (1, 8, 8)) > 1000


def test_tensorrt_rtx_builds_nodes_in_half_between_others_in_int8(
    tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges
) -> None:
    convolutions = [node.name for node in onnx.load(digits_onnx.file()).graph.node if node.op_type == "Conv"][2:4]
    excluded = dict.fromkeys(convolutions, "sensitive")
    form = int8.QuantizationSpec(PLACEMENTS["tensorrt-rtx"], exclude=excluded)
    source, file, ranges = digits_onnx.file(), tmp_path / "mixed.onnx", digits_ranges.compute_ranges()
    facts = halve_float_nodes(file, source, ranges, set(convolutions), int8.write_int8_graph(source, file, ranges, form))
    assert facts["half"] == excluded
    assert facts["quantized"]["Conv"] == 6
    assert built(tmp_path / "mixed.onnx", (1, 8, 8)) > 1000


def built(file: Path, sample: tuple[int, ...]) -> int:
    """Bytes of an engine for Ada, which needs no GPU to be built."""
    trt = pytest.importorskip("tensorrt_rtx", reason="without TensorRT-RTX")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse_from_file(str(file))
    errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
    del parser  # a network that changes under its parser crashes the process
    assert parsed, errors
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile.set_shape(network.get_input(0).name, (1, *sample), (4, *sample), (8, *sample))
    config.add_optimization_profile(profile)
    return int(builder.build_serialized_network(network, config).nbytes)


def test_runtimes_of_one_family_share_a_key() -> None:
    """What runs a graph counts only where it decides how that is written."""

    def deciders(**settings: Any) -> dict[str, Any]:
        stage = Optimize(task=smoke.DIGITS, reduce_range=False, **settings)
        return stage.model_dump(include=set(stage.deciding()))

    both = [deciders(precision="int8", runtime=runtime) for runtime in PLACEMENTS]
    assert both[0] == both[1] != both[2] == both[3]
    assert both[0] == {
        "precision": "int8",
        "placement": "unsigned",
        "exclude": (),
        "per_channel": True,
        "range_method": "minmax",
        "weight_bits": 8,
    }
    assert {str(deciders(precision="fp16", runtime=runtime)) for runtime in PLACEMENTS} == {str(deciders(precision="fp16"))}
    assert deciders(precision="fp32", runtime="tensorrt", per_channel=False) == {"precision": "fp32"}


def test_bf16_is_the_float_graph_for_openvino(tmp_path: Path, digits_onnx: OnnxModel, digits_ranges: Ranges) -> None:
    made = optimized(tmp_path, digits_onnx, digits_ranges, precision="bf16", runtime="openvino")
    assert made.file().read_bytes() == digits_onnx.file().read_bytes()
    assert made.facts["precision"] == "bf16"
    assert Optimize(task=smoke.DIGITS, precision="bf16", runtime="openvino").reading() == {"onnx"}


@pytest.mark.parametrize(
    ("precision", "runtime", "having"),
    [
        ("bf16", "onnxruntime", "openvino alone"),
        ("bf16", "tensorrt", "openvino alone"),
        ("int8-dynamic", "openvino", "onnxruntime alone"),
        ("int8-dynamic", "tensorrt-rtx", "onnxruntime alone"),
    ],
)
def test_a_precision_that_a_runtime_does_not_have(precision: Any, runtime: Any, having: str) -> None:
    with pytest.raises(ValidationError, match=f"'{runtime}' .*'{precision}', {having}"):
        Optimize(task=smoke.DIGITS, precision=precision, runtime=runtime)


PRODUCT = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,4] x) => (float[batch,4] y) {{
        h = Cast<to = {to}>(x)
        a = MatMul(h, w)
        r = Relu(a)
        b = MatMul(r, v)
        c = Relu(b)
        y = Cast<to = 1>(c)
    }}"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize(("dtype", "name"), [(np.float16, "float16"), (np.float64, "double")])
def test_graphs_of_another_float_are_refused(tmp_path: Path, runtime: str, dtype: Any, name: str) -> None:
    """The quantizer would write scales of float32 beside tensors of another type, which no runtime takes."""
    model = onnx.parser.parse_model(PRODUCT.format(to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
    weights = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(dtype)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(each, n) for each, n in zip(weights, "wv", strict=True))
    onnx.save(model, tmp_path / "model.onnx")
    told = rf"nothing can be quantized: .*\(MatMul_1 computes in {name}, MatMul_3 computes in {name}\); .*Use precision = 'fp32'"
    with pytest.raises(UnsupportedModelError, match=told):
        int8.write_int8_graph(
            tmp_path / "model.onnx", tmp_path / "int8.onnx", dict.fromkeys("xharbcy", (-2.0, 2.0)), form(runtime)
        )
    with pytest.raises(UnsupportedModelError, match=f"MatMul_1 computes in {name}"):
        dynamic.write_dynamic_int8_graph(tmp_path / "model.onnx", tmp_path / "dynamic.onnx", True, [])
    assert not [*tmp_path.glob("int8*"), *tmp_path.glob("dynamic*")]


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_weight_in_a_constant_node_is_a_weight(tmp_path: Path, runtime: str) -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,2] x) => (float[batch,2] y) {
            w = Constant<value = float[2,2] {1.0, 0.5, -0.25, 2.0}>()
            a = MatMul(x, w)
            y = Relu(a)
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    ranges = dict.fromkeys("xay", (-4.0, 4.0))  # none of the weight
    assert int8.write_int8_graph(tmp_path / "model.onnx", tmp_path / "int8.onnx", ranges, form(runtime))["quantized"] == {
        "MatMul": 1
    }
    made = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    np.testing.assert_array_equal(made["w_quantized"], [[64, 16], [-16, 64]])
    assert dynamic.write_dynamic_int8_graph(tmp_path / "model.onnx", tmp_path / "dynamic.onnx", True, [])["quantized"] == {
        "MatMul": 1
    }


def random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def faithful(folder: Path, text: str, form: int8.QuantizationSpec, **weights: Any) -> tuple[float, Facts]:
    """CORR of ``y`` in int8, as ONNX Runtime fuses it, with ``y`` in float; and the facts."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, folder / "model.onnx")
    (given,) = model.graph.input
    x = random(64, *(dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]))
    with onnxruntime.open_session({"model": reveal_tensors(folder / "model.onnx")}, 1, optimize=False) as predict:
        tensors = {"x": x, **predict({"x": x})}
    ranges = {name: (float(np.min(array)), float(np.max(array))) for name, array in tensors.items()}
    facts = int8.write_int8_graph(folder / "model.onnx", folder / "int8.onnx", ranges, form)
    onnx.checker.check_model(folder / "int8.onnx", full_check=True)  # nodes in order, too
    with onnxruntime.open_session({"model": folder / "int8.onnx"}, 1) as predict:
        got = smoke.floats(predict({"x": x})["y"])
    return float(np.corrcoef(got.ravel(), smoke.floats(tensors["y"]).ravel())[0, 1]), facts


GEMM = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,16] x) => (float[batch,8] y) {{
        a = Gemm<transB = 1{factors}>(x, w, b)
        y = Relu(a)
    }}"""


@pytest.mark.parametrize("factors", ["", ", alpha = 0.5", ", beta = 2.0", ", alpha = 0.5, beta = 2.0"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_the_factors_of_a_gemm_count(tmp_path: Path, runtime: str, factors: str) -> None:
    found, _ = faithful(tmp_path, GEMM.format(factors=factors), form(runtime), w=random(8, 16), b=4 * random(8))
    assert found > 0.999


def test_the_factor_of_a_computed_bias_counts(tmp_path: Path) -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,16] x) => (float[batch,16] y) {
            a = Gemm<beta = 2.0>(x, w, x)
            c = MatMul(a, v)
            y = Relu(c)
        }"""
    assert faithful(tmp_path, text, form("onnxruntime"), w=random(16, 16), v=random(16, 16))[0] > 0.999


CLIP = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,8,4,4] x) => (float[batch,8,4,4] y) {{
        a = Conv(x, v)
        b = Clip({bounds})
        y = Conv(b, w)
    }}"""


@pytest.mark.parametrize("bounds", ["a, high", "a, low", "a, low, high", "a, , low_negative", "a, m", "a, , zero"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_clip_clips_in_int8(tmp_path: Path, runtime: str, bounds: str) -> None:
    """ONNX Runtime's quantizer drops it, as values outside a range become its ends; a range always holds 0."""
    given = {"low": 0.5, "high": 1.5, "low_negative": -0.5, "zero": 0.0}
    constants = {name: np.float32(value) for name, value in given.items()}
    text = CLIP.format(bounds=bounds)
    if bounds == "a, m":
        text = text.replace("b = Clip", "m = ReduceMean<keepdims = 0>(x)\n        b = Clip")
    found, facts = faithful(tmp_path, text, form(runtime), v=random(8, 8, 1, 1), w=random(8, 8, 1, 1), **constants)
    assert facts["quantized"]["Conv"] == 2
    assert found > 0.999
    is_dropped = all(node.op_type != "Clip" for node in onnx.load(tmp_path / "int8.onnx").graph.node)
    assert is_dropped == (runtime == "onnxruntime" and bounds == "a, , zero")


@pytest.mark.parametrize("activation", ["Relu(y)", "Clip(y, zero)"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_an_output_before_an_activation_keeps_its_range(tmp_path: Path, runtime: str, activation: str) -> None:
    """ONNX Runtime's quantizer gives it that of the activation's result, as if nothing else read it."""
    text = f"""
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,8,4,4] x) => (float[batch,8,4,4] y, float[batch,8,4,4] z) {{
            y = Conv(x, v)
            b = {activation}
            z = Conv(b, w)
        }}"""
    weights = {"v": random(8, 8, 1, 1), "w": random(8, 8, 1, 1), "zero": np.float32(0)}
    found, facts = faithful(tmp_path, text, form(runtime), **weights)
    assert facts["quantized"]["Conv"] == 2
    assert found > 0.999


@pytest.mark.parametrize("shape", [(), (1,), (1, 8), (64, 1)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_gemm_whose_bias_is_no_row_stays_float(tmp_path: Path, runtime: str, shape: tuple[int, ...]) -> None:
    """ONNX Runtime's quantizer reads a scale for each entry of it, and raised an IndexError."""
    text = GEMM.format(factors="").replace("y = Relu(a)", "r = Relu(a)  p = MatMul(r, u)  y = Relu(p)")
    weights = {"w": random(8, 16), "b": random(*shape), "u": random(8, 8)}
    found, facts = faithful(tmp_path, text, form(runtime), **weights)
    assert facts["float"] == {"Gemm_0": "a Gemm whose bias is not one number a column"}
    assert facts["quantized"]["MatMul"] == 1
    assert found > 0.999


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("case", ["three axes", "on the left", "shared"])
def test_weights_that_have_one_scale(tmp_path: Path, runtime: str, case: str) -> None:
    """Along any other axis than that of the results a scale cannot be taken out of a sum."""
    product, weight = {"three axes": ("x, w", (3, 8, 6)), "on the left": ("w, x", (6, 5)), "shared": ("x, v", (8, 8))}[case]
    other = "t = MatMul(v, r)" if case == "shared" else "t = Identity(r)"
    text = f"""
        <ir_version: 9, opset_import: ["" : 20]>
        g (float[batch,{8 if case == "shared" else 3},{5 if case == "on the left" else 8},8] x) => (float[a,b,c,d] y) {{
            p = MatMul({product})
            r = Relu(p)
            {other}
            y = Relu(t)
        }}"""
    weights = {"v": random(8, 8)} if case == "shared" else {"w": random(*weight)}
    found, facts = faithful(tmp_path, text, form(runtime), **weights)
    assert facts["quantized"]["MatMul"] == 1 + (case == "shared")
    assert found > 0.999
    made = onnx.load(tmp_path / "int8.onnx").graph.initializer
    scales = {tensor.name: tuple(tensor.dims) for tensor in made if tensor.name.endswith("_scale")}
    assert scales["v.copy1_scale" if case == "shared" else "w_scale"] == ()
    assert scales.get("v_scale", (8,)) == (8,)


TIED = """
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[batch,8] x) => (float[batch,8] y) {
        a = MatMul(x, w)
        r = Relu(a)
        c = Gemm<transB = 1>(r, w)
        d = Relu(c)
        e = MatMul(d, w)
        y = Relu(e)
    }"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_a_tied_weight_has_its_channels_along_the_axis_of_each_reader(tmp_path: Path, runtime: str) -> None:
    """And what stays float reads it as it is."""
    weight = random(8, 8) * 2 ** np.arange(8, dtype=np.float32)
    found, facts = faithful(tmp_path, TIED, form(runtime, exclude={"MatMul_4": "sensitive"}), w=weight)
    assert facts["quantized"]["MatMul"] == facts["quantized"]["Gemm"] == 1
    assert found > 0.999
    made = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    np.testing.assert_allclose(made["w_scale"], np.abs(weight).max(0) / 64, rtol=1e-6)
    np.testing.assert_allclose(made["w.copy1_scale"], np.abs(weight).max(1) / 64, rtol=1e-6)
    np.testing.assert_array_equal(made["w.copy2"], weight)


def form(runtime: str, **settings: Any) -> int8.QuantizationSpec:
    """With weights of 7 bits, with which no CPU saturates."""
    return int8.QuantizationSpec(PLACEMENTS[runtime], weight_bits=7, **settings)

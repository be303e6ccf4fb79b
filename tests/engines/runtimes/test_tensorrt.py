"""TensorRT-RTX builds real engines on the CPU: of which graphs, for which GPUs, and what it refuses. TensorRT needs a GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from attar.engines.runtimes import cuda, tensorrt_build
from attar.engines.runtimes.runtime import RUNTIMES, BuildSpec, load_runtime
from attar.engines.runtimes.tensorrt import TensorRt, TensorRtRtx
from attar.engines.runtimes.tensorrt_engine import import_tensorrt, probe_engine
from attar.engines.runtimes.tensorrt_header import EngineHeader, check_device, check_engine, read_header
from attar.models.task import Task, load_task
from attar.pipeline.core.errors import MissingDependencyError, StageError, UnsupportedModelError
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.stages.artifacts import Engine, OnnxModel
from attar.stages.build import Build
from attar.stages.export.stage import Export
from tests.support.engines import child_calls, tensorrt_graphs
from tests.support.engines.tensorrt_graphs import Examples, written
from tests.support.tasks import smoke

WORDS = "tests.support.tasks.ragged_words:RaggedWords"
COMPUTE = ["8.0", "8.9", "12.0"]
PROFILES: Mapping[str, Mapping[str, tuple[int, int, int]]] = {
    smoke.DIGITS: {"batch": (1, 1, 32)},
    WORDS: {"batch": (1, 1, 8), "sequence": (1, 12, 12)},
}
BATCH = {"batch": (1, 4, 8)}
HERE = importlib.util.find_spec("tensorrt_rtx") is not None
DRIVER = cuda.has_driver()
rtx = pytest.mark.skipif(not HERE, reason="TensorRT-RTX is not installed: pip install 'attar[tensorrt-rtx]'")
without_gpu = pytest.mark.skipif(DRIVER, reason="there is an NVIDIA driver here; what is tested is a machine without")


@pytest.fixture(scope="module")
def words_onnx(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    root = tmp_path_factory.mktemp("words")
    weights = smoke.weights(root / "weights", "tests.support.tasks.ragged_words:transformer", WORDS)
    return smoke.artifact(OnnxModel, root, Export().run(root, weights=weights))


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[smoke.DIGITS, WORDS], ids=["image", "text"])
def graph(
    request: pytest.FixtureRequest,
    precision: str,
    digits_onnx: OnnxModel,
    words_onnx: OnnxModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Task, Path]:
    """The student, in a precision."""
    model, task = words_onnx if request.param == WORDS else digits_onnx, load_task(request.param)
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    if precision == "fp32":
        return task, model.file()
    if precision == "fp16":
        tensorrt_graphs.half(model.file(), file)
    else:
        sizes = {axis: high for axis, (_, high) in task.ranges.items()}
        tensorrt_graphs.symmetric(
            model.file(), file, Examples(task, **sizes), ["MatMul", "Gemm"] if "Words" in request.param else None
        )
    return task, file


def build(source: Path, out: Path, profile: Mapping[str, Any] = BATCH, **options: Any) -> EngineHeader:
    target = out / "model.engine"
    TensorRtRtx().build(source, target, BuildSpec(profile=profile, options=options))
    return read_header("tensorrt_rtx", target)


def refusals(file: Path) -> list[str]:
    return [str(each) for each in TensorRtRtx().find_refused_nodes(file, BuildSpec())]


@pytest.fixture
def takes(tmp_path: Path) -> Path:
    return written(tmp_path / "takes.onnx", tensorrt_graphs.TAKES)


@rtx
def test_image_and_text_in_every_precision_for_three_generations_in_one_engine(graph: tuple[Task, Path], tmp_path: Path) -> None:
    task, file = graph
    asked = BuildSpec(profile=PROFILES[f"{type(task).__module__}:{type(task).__name__}"], options={"compute": COMPUTE})
    assert TensorRtRtx().find_refused_nodes(file, asked) == []
    TensorRtRtx().build(file, tmp_path / "model.engine", asked)
    found = read_header("tensorrt_rtx", tmp_path / "model.engine")
    assert found == EngineHeader(importlib.metadata.version("tensorrt-rtx"), tuple(COMPUTE), newer=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.engine"]


@rtx
@without_gpu
def test_a_target_is_built_and_not_run_here(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    model = smoke.artifact(OnnxModel, digits_onnx.root, {"precision": "fp32", **digits_onnx.facts})
    stage = Build(task=smoke.DIGITS, runtime="tensorrt-rtx", compute=("8.6", "8.9"), profile={"batch": (1, 8, 64)}, workspace=256)
    engine = smoke.artifact(Engine, tmp_path, stage.run(tmp_path, model=model))
    assert engine.facts["files"] == {"model": "model.engine"}
    assert engine.facts["runtime_version"] == importlib.metadata.version("tensorrt-rtx")
    assert engine.facts["asked"] == {"profile": {"batch": [1, 8, 64]}, "options": {"compute": ("8.6", "8.9"), "workspace": 256}}
    assert engine.why_not_run is not None
    assert "no NVIDIA driver here" in engine.why_not_run
    with pytest.raises(StageError, match="NVIDIA driver"):
        engine.open()


@pytest.mark.parametrize(
    ("graph", "words", "said"),
    [
        ("QUANTIZED", {"TYPE": "uint8", "POINT": "3"}, "'quant': its zero point"),
        ("QUANTIZED", {"TYPE": "int8", "POINT": "3"}, "'quant': its zero point"),
        (
            "QUANTIZED",
            {"TYPE": "uint8", "POINT": "0"},
            "QuantizeLinear 'quant': numbers are uint8, which TensorRT would read as int8",
        ),
        ("UNSAID", {}, "numbers are uint8"),
        ("DYNAMIC", {}, "DynamicQuantizeLinear"),
        ("BIAS", {}, "dequantizes int32"),
        ("UNKNOWN", {}, "Own 'own'"),
    ],
)
@rtx
def test_what_is_refused_names_node_and_operator(graph: str, words: dict[str, str], said: str, tmp_path: Path) -> None:
    file = written(tmp_path / "model.onnx", getattr(tensorrt_graphs, graph), **words)
    assert said in refusals(file)[0]


@rtx
def test_a_refused_graph_is_not_built_either_and_nothing_is_left(tmp_path: Path) -> None:
    file = written(tmp_path / "model.onnx", tensorrt_graphs.QUANTIZED, TYPE="uint8", POINT="0")
    with pytest.raises(UnsupportedModelError, match=r"model\.onnx: .*'quant'.* uint8"):
        build(file, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@rtx
def test_symmetric_pairs_of_zero_are_taken(tmp_path: Path) -> None:
    assert refusals(written(tmp_path / "model.onnx", tensorrt_graphs.QUANTIZED, TYPE="int8", POINT="0")) == []


@rtx
def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"hello world" * 20)  # its parser says that it is one
    with pytest.raises(StageError, match=r"model\.onnx"):
        refusals(tmp_path / "model.onnx")


@rtx
@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({}, r"'batch' .*'x' .*profile"),
        ({"batch": (8, 1, 64)}, " 8, 1, 64"),
        ({"batch": (1, 65, 64)}, r"not 1, 65, 64"),
    ],
)
def test_profiles_that_are_none(profile: Mapping[str, Any], said: str, takes: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=said):
        build(takes, tmp_path, profile)


@rtx
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"compute": ["8.9", "9.0"]},
            r"9\.0; .*7\.5.*12\.1",
        ),
        (
            {"compute": ["7.5"]},
            r"takes\.onnx: .*\(SM75\)",
        ),
    ],
)
def test_gpus_that_it_cannot_build_for(options: Mapping[str, Any], said: str, takes: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        build(takes, tmp_path, **options)
    assert not (tmp_path / "model.engine").exists()


@rtx
def test_without_compute_the_engine_is_for_what_the_vendor_says(takes: Path, tmp_path: Path) -> None:
    found = build(takes, tmp_path)
    assert (found.compute, found.newer) == (("8.0", "8.6", "8.9", "12.0", "12.1"), True)
    check_engine("tensorrt_rtx", tmp_path / "model.engine", importlib.metadata.version("tensorrt-rtx"))
    with pytest.raises(StageError, match=r"tensorrt_rtx 1\.7\.\d+\.\d+.*1\.8\.0\.1"):
        check_engine("tensorrt_rtx", tmp_path / "model.engine", "1.8.0.1")
    if not DRIVER:  # the library itself, asked in a process of its own, says so too
        with pytest.raises(StageError, match="CUDA driver"):
            probe_engine("tensorrt_rtx", "TensorRT-RTX", tmp_path / "model.engine")
    with pytest.raises(StageError, match=r"capability 8\.0.*H100 .*9\.0"):
        check_device(tmp_path / "model.engine", found, {"name": "H100", "compute": "9.0"})


@without_gpu
def test_tensorrt_itself_builds_on_its_gpu_only(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    model = smoke.artifact(OnnxModel, digits_onnx.root, {"precision": "fp32", **digits_onnx.facts})
    facts = Build(task=smoke.DIGITS, runtime="tensorrt", profile={"batch": (1, 8, 64)}).run(tmp_path, model=model)
    assert facts["files"] == {}
    assert "(libcuda.so.1 " in facts["why"]
    assert list(tmp_path.iterdir()) == []


@rtx
def test_another_version_or_other_code_in_the_child_makes_the_engine_anew(tmp_path: Path) -> None:
    found = Fingerprint(tmp_path).of([RUNTIMES["tensorrt-rtx"]])
    assert found.packages["tensorrt_rtx"] == importlib.metadata.version("tensorrt-rtx")
    assert any(name.endswith("tensorrt_build:make_config") for name in found.definitions)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_library_that_is_missing_names_the_extra(runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(MissingDependencyError, match=rf"'attar\[{runtime}\]'"):
        load_runtime(runtime).find_refused_nodes(tmp_path / "model.onnx", BuildSpec())


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "10.11.0.33")
    with pytest.raises(StageError, match=r"TensorRT 10\.11\.0\.33.*10\.12"):
        TensorRt().get_version()


def test_a_crash_of_the_builder_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, takes: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.7.1.116")
    monkeypatch.setattr(tensorrt_build, "build_engine", child_calls.segfaulting)
    with pytest.raises(StageError, match=r"model\.engine .*\(SIGSEGV\)"):
        build(takes, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["takes.onnx"]


@pytest.mark.parametrize(("compute", "why"), [((), None), (("8.6", "8.9"), None), (("8.6",), "capability 8.9")])
def test_a_gpu_that_was_not_asked_for_does_not_run_the_engine(compute: tuple[str, ...], why: str | None) -> None:
    found = TensorRtRtx.explain_unsuited(compute, {"name": "NVIDIA L4", "compute": "8.9"})
    assert (found is None) if why is None else (found is not None and why in found)


@pytest.mark.parametrize(("compute", "runs"), [("7.5", False), ("8.9", True), ("9.0", False), ("12.1", True), ("13.0", True)])
def test_a_gpu_that_no_engine_is_for_unless_it_is_asked_for(compute: str, runs: bool) -> None:
    found = TensorRtRtx.explain_unsuited((), {"name": "NVIDIA H100", "compute": compute})
    assert (found is None) == runs
    assert runs or f"H100 has compute capability {compute}," in str(found)


@pytest.mark.parametrize(
    ("version", "flags"), [("tensorrt 10.12.0.36", 1 << 1), ("tensorrt 11.0.0.1", 0), ("tensorrt_rtx 1.7.1.116", 0)]
)
def test_networks_are_strongly_typed_in_every_version(version: str, flags: int) -> None:
    name, number = version.split()
    flag = SimpleNamespace(STRONGLY_TYPED=1)
    library = SimpleNamespace(__name__=name, __version__=number, NetworkDefinitionCreationFlag=flag)
    assert tensorrt_build.creation_flags(library) == flags


@rtx
@pytest.mark.parametrize("option", ["builder_optimization_level", "hardware_compatibility", "version_compatible"])
def test_options_that_tensorrt_rtx_takes_and_ignores_are_errors(option: str) -> None:
    value = {"builder_optimization_level": 5, "hardware_compatibility": "ampere_plus", "version_compatible": True}[option]
    with pytest.raises(ValidationError, match=f"{option} .*'tensorrt-rtx'"):
        Build.model_validate({"task": smoke.DIGITS, "runtime": "tensorrt-rtx", option: value})


@rtx
def test_a_workspace_that_is_too_small_is_what_the_builder_says(takes: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="workspace"):
        build(takes, tmp_path, workspace=1)
    assert build(takes, tmp_path, workspace=64).compute is not None


def test_options_under_the_vendor_s_names() -> None:
    """Of TensorRT, whose library cannot be installed here."""
    level = SimpleNamespace(AMPERE_PLUS="ampere")
    flags, limits = set[str](), dict[str, int]()
    config = SimpleNamespace(set_flag=flags.add, clear_flag=flags.discard, set_memory_pool_limit=limits.__setitem__)
    library = SimpleNamespace(
        BuilderFlag=SimpleNamespace(TF32="tf32", VERSION_COMPATIBLE="versions"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        HardwareCompatibilityLevel=level,
    )
    flags.add("tf32")
    options = {
        "builder_optimization_level": 0,
        "workspace": 2,
        "hardware_compatibility": "ampere_plus",
        "version_compatible": True,
    }
    made = tensorrt_build.make_config(library, SimpleNamespace(create_builder_config=lambda: config), options)
    assert (made.builder_optimization_level, made.hardware_compatibility_level) == (0, "ampere")
    assert (flags, limits) == ({"versions"}, {"workspace": 2 << 20})


@rtx
def test_what_sessions_ask_of_the_library_has_these_names() -> None:
    """The tests of sessions play it: without a driver it opens no engine."""
    trt = import_tensorrt("tensorrt_rtx")
    assert "WHOLE_GRAPH_CAPTURE" in trt.CudaGraphStrategy.__members__
    assert "EAGER" in trt.DynamicShapesKernelSpecializationStrategy.__members__
    config = {"cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy", "create_runtime_cache", "set_runtime_cache"}
    assert config <= {*dir(trt.IRuntimeConfig)}
    assert {"serialize", "deserialize"} <= {*dir(trt.IRuntimeCache)}

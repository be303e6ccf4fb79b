"""Engines of TensorRT before and while they run: headers byte by byte, and a session whose GPU is played by the host."""

from __future__ import annotations

import ctypes
import importlib.metadata
import struct
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.engines.runtimes import cuda, tensorrt_engine
from attar.engines.runtimes.runtime import BuildSpec
from attar.engines.runtimes.tensorrt import TensorRt, TensorRtRtx
from attar.engines.runtimes.tensorrt_context import SessionOptions, configure_runtime, create_context
from attar.engines.runtimes.tensorrt_engine import EngineSession, format_invalidity, read_tensors
from attar.engines.runtimes.tensorrt_header import COMPUTE, EngineHeader, check_device, check_engine, read_header
from attar.models.tensors import TensorSpec
from attar.pipeline.core.errors import StageError
from tests.support.engines.child_calls import segfaulting
from tests.support.engines.cuda_host import STREAMS, HostDriver
from tests.support.tasks import smoke

L4 = {"name": "NVIDIA L4", "compute": "8.9"}
DTYPES = {"FLOAT": np.float32, "INT64": np.int64}


def engine_file(folder: Path, bits: int = 0b1010, version: tuple[int, ...] = (1, 7, 1, 116), size: int | None = None) -> Path:
    """A header as TensorRT-RTX 1.7.1 writes it, 8.0 and 8.9 by default, and 100 bytes."""
    start = struct.pack("<4s4xQQ4B4sQ", b"vtrt", 2, 140 if size is None else size, *version, b"vtrt", bits)
    file = folder / "model.engine"
    file.write_bytes(start + bytes(100))
    return file


def test_what_a_header_says(tmp_path: Path) -> None:
    assert read_header("tensorrt_rtx", engine_file(tmp_path)) == EngineHeader("1.7.1.116", ("8.0", "8.9"), newer=False)
    later = read_header("tensorrt_rtx", engine_file(tmp_path, version=(1, 8, 0, 1)))
    assert later == EngineHeader("1.8.0.1")  # what its bits mean is for its library to say
    assert later.runs_on("9.0")


@given(chosen=st.sets(st.sampled_from(COMPUTE), min_size=1), newer=st.booleans())
def test_an_engine_runs_where_its_header_says(chosen: set[str], newer: bool) -> None:
    found = EngineHeader("1.7.1.116", tuple(sorted(chosen)), newer)
    assert {each for each in COMPUTE if found.runs_on(each)} == chosen
    assert found.runs_on("13.0") == newer
    assert not found.runs_on("9.0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"is no engine of tensorrt_rtx: it begins with b'', not b'vtrt'; build it again"),
        (b"\x08\x0a\x12\x07pytorch" * 20, r"begins with b'\\x08"),  # an ONNX file
        (b"ftrt" + bytes(100), "begins with b'ftrt'"),  # one of TensorRT
        (b"vtrt" + bytes(10), "cut off"),
        (b"vtrt" + bytes(100), r"form .*\(0\)"),
    ],
)
def test_files_that_are_no_engines(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(content)
    with pytest.raises(StageError, match=said):
        read_header("tensorrt_rtx", tmp_path / "model.engine")


def test_a_file_that_is_not_there_or_not_all_there(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"nothing\.engine"):
        read_header("tensorrt_rtx", tmp_path / "nothing.engine")
    with pytest.raises(StageError, match=r"140 .*4000"):
        read_header("tensorrt_rtx", engine_file(tmp_path, size=4000))


def test_tensorrt_s_own_engines_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"ftrt" + bytes(100))
    assert check_engine("tensorrt", tmp_path / "model.engine", "11.0.0.1") == EngineHeader()
    with pytest.raises(StageError, match="b'vtrt'"):
        check_engine("tensorrt", engine_file(tmp_path), "11.0.0.1")


def test_another_release_is_refused_and_another_build_of_the_same_is_not(tmp_path: Path) -> None:
    file = engine_file(tmp_path)
    assert check_engine("tensorrt_rtx", file, "1.7.1.120").version == "1.7.1.116"
    with pytest.raises(StageError, match=r"tensorrt_rtx 1\.7\.1\.116.*1\.7\.2\.1"):
        check_engine("tensorrt_rtx", file, "1.7.2.1")


def test_another_compute_capability_is_refused(tmp_path: Path) -> None:
    check_device(tmp_path, EngineHeader("1.7.1.116", ("8.0", "8.9")), L4)
    with pytest.raises(StageError, match=r"8\.6; NVIDIA L4 .*8\.9"):
        check_device(tmp_path, EngineHeader("1.7.1.116", ("8.0", "8.6")), L4)


def test_what_the_vendor_s_flags_say() -> None:
    members = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "TOMORROWS_FLAG": 128}
    assert format_invalidity(4, members) == ["the NVIDIA driver is too old for it: update the driver"]
    assert format_invalidity(130, members) == ["it was not built for this GPU's compute capability", "TOMORROWS_FLAG"]


class DoublingEngine:
    """An engine for ``y = 2 x`` of [batch, 3] floats, one to eight at a time; it reads and writes at addresses, as a GPU does."""

    num_io_tensors = 2
    starts = True

    def __init__(self, dtype: str = "FLOAT", answer: tuple[int, ...] | None = None) -> None:
        self.dtype, self.answer = SimpleNamespace(name=dtype), answer
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def create_execution_context(self) -> DoublingEngine:
        return self

    def get_tensor_name(self, number: int) -> str:
        return "xy"[number]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "x" else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.answer or self.shape) or (-1, 3)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3), (4, 3), (8, 3)]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.starts:
            STREAMS[stream].pending.append(partial(self.compute, int(np.prod(self.shape))))
        return self.starts

    def compute(self, count: int) -> None:
        x, y = (np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.addresses[name])) for name in "xy")
        y[:] = 2 * x


def numpy_type(dtype: Any) -> Any:
    if dtype.name not in DTYPES:
        raise TypeError
    return DTYPES[dtype.name]


LIBRARY = SimpleNamespace(nptype=numpy_type, TensorIOMode=SimpleNamespace(INPUT="input"))


LOG = SimpleNamespace(errors=["no\n  kernel"])


def session(engine: DoublingEngine, cuda_graphs: bool = False) -> tuple[EngineSession, HostDriver]:
    host = HostDriver()
    memory = cuda.GpuMemory(cuda.CudaDriver(host), ctypes.c_void_p(77))
    return EngineSession(LIBRARY, engine, memory, LOG, SessionOptions(cuda_graphs=cuda_graphs)), host


def test_a_session_answers_whatever_the_batch_and_gives_everything_back() -> None:
    predict, host = session(DoublingEngine())
    answers = []
    for batch in (4, 8, 1):
        x = np.arange(3 * batch, dtype=np.float32).reshape(3, batch).T  # not contiguous
        answers.append((predict({"x": x})["y"], 2 * smoke.floats(x)))
    for answer, expected in answers:  # a later call writes to the same memory
        np.testing.assert_array_equal(smoke.floats(answer), expected)
    predict.close()
    predict.memory.close()
    assert host.given == {}


def test_kernels_are_recorded_where_that_is_asked_for() -> None:
    """Of two calls of one shape the second is recorded; a third starts no kernel by itself."""
    predict, host = session(DoublingEngine(), cuda_graphs=True)
    for call in range(4):
        x = np.full((2, 3), call, np.float32)
        assert smoke.floats(predict({"x": x})["y"]).tolist() == (2 * x).tolist()
    assert host.calls.count("cuStreamBeginCapture_v2") == 1
    assert host.calls.count("cuGraphLaunch") == 3
    larger = np.ones((8, 3), np.float32)
    assert smoke.floats(predict({"x": larger})["y"]).tolist() == (2 * larger).tolist()
    assert host.graphs == {}
    for _ in range(2):
        predict({"x": larger})
    assert host.graphs
    predict.close()
    predict.memory.close()
    assert host.graphs == {}
    assert host.given == {}


def test_tensorrt_rtx_records_by_itself() -> None:
    config = SimpleNamespace()
    engine = SimpleNamespace(create_runtime_config=lambda: config)
    strategies = {"DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="eager")}
    library = SimpleNamespace(**strategies, CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"))
    assert not hasattr(configure_runtime(library, engine, SessionOptions()), "cuda_graph_strategy")
    configure_runtime(library, engine, SessionOptions(cuda_graphs=True))
    assert config.cuda_graph_strategy == "whole"


def test_kernels_are_kept_when_an_engine_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = SimpleNamespace(serialize=lambda: b"compiled")
    config = SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=lambda cache: None)
    engine = DoublingEngine()
    monkeypatch.setattr(tensorrt_engine, "configure_runtime", lambda *given: config)
    monkeypatch.setattr(tensorrt_engine, "create_context", lambda engine, config: engine)
    memory = cuda.GpuMemory(cuda.CudaDriver(HostDriver()), ctypes.c_void_p(77))
    predict = EngineSession(LIBRARY, engine, memory, LOG, SessionOptions(runtime_cache=True), tmp_path / "kernels")
    assert smoke.floats(predict({"x": np.ones((1, 3), np.float32)})["y"]).tolist() == [[2, 2, 2]]
    predict.close()
    assert (tmp_path / "kernels").read_bytes() == b"compiled"


def test_a_missing_wait_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: nothing that was started is done before the stream is waited for."""
    predict, _ = session(DoublingEngine())
    monkeypatch.setattr(cuda.GpuMemory, "wait", lambda self: None)
    answer = predict({"x": np.ones((2, 3), np.float32)})["y"]
    assert not smoke.floats(answer).any()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, r"'x' .*float32 \[x axis 0, 3\]"),
        ({"x": np.zeros((1, 3), np.float32), "z": np.zeros(1)}, "'z': known: x"),
        ({"x": np.zeros((1, 3), ">f4")}, "byte order"),
        ({"x": np.zeros((1, 3))}, r"'x' .*float64 \[1, 3\]"),
        ({"x": np.zeros(3, np.float32)}, r"got float32 \[3\]"),
        ({"x": np.zeros((9, 3), np.float32)}, r"'x' .*= 9.* 1 to 8"),
        ({"x": np.zeros((0, 3), np.float32)}, r"'x' .*= 0.* 1 to 8"),
        ({"x": np.zeros((1, 4), np.float32)}, r"got float32 \[1, 4\]"),
    ],
)
def test_inputs_that_it_does_not_take_never_reach_the_gpu(inputs: dict[str, Any], said: str) -> None:
    predict, host = session(DoublingEngine())
    with pytest.raises(StageError, match=said):
        predict(inputs)
    assert host.given == {}


def test_what_goes_wrong_while_it_runs() -> None:
    good = {"x": np.zeros((1, 3), np.float32)}
    predict, _ = session(DoublingEngine(answer=(-1, 3)))
    with pytest.raises(StageError, match=r"'y'.*\[-1, 3\]"):
        predict(good)
    engine = DoublingEngine()
    engine.starts = False
    with pytest.raises(StageError, match="did not start"):
        session(engine)[0](good)


def test_a_gpu_without_room_for_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoublingEngine, "create_execution_context", lambda self: None)
    with pytest.raises(StageError, match=r"memory on the GPU\?: no"):
        session(DoublingEngine())


def test_an_engine_that_cannot_be_read_is_let_go_before_the_gpu_is(
    tmp_path: Path, host: HostDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of its session would hold it, and free it when its context and memory are gone."""
    order: list[str] = []

    class Watched(DoublingEngine):
        def __del__(self) -> None:
            order.append("engine")

    monkeypatch.setattr(tensorrt_engine, "probe_engine", lambda *asked: None)
    monkeypatch.setattr(cuda.GpuMemory, "close", lambda self: order.append("memory"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Library(lambda: Watched("BF16")))
    with pytest.raises(StageError, match="BF16"), TensorRtRtx().open({"model": engine_file(tmp_path)}, BuildSpec()):
        pass
    assert order == ["engine", "memory"]


def test_kernels_of_a_new_shape_are_compiled_before_the_call_answers() -> None:
    config, asked = SimpleNamespace(), list[object]()
    engine = SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=asked.append)
    strategies = SimpleNamespace(EAGER="eager")
    library = SimpleNamespace(DynamicShapesKernelSpecializationStrategy=strategies)
    create_context(engine, configure_runtime(library, engine, SessionOptions()))
    assert asked == [config]
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"])
def test_tensorrt_is_found_whatever_its_package_is_called(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> str:
        if name != package:
            raise importlib.metadata.PackageNotFoundError(name)
        return "10.13.0.35"

    monkeypatch.setattr(importlib.metadata, "version", find)
    assert TensorRt().get_version() == "10.13.0.35"


def test_tensors_of_an_engine() -> None:
    tensors = read_tensors(LIBRARY, DoublingEngine("INT64"))
    assert tensors.inputs == [TensorSpec("int64", ("x axis 0", 3), high=None, name="x")]
    assert tensors.outputs == [TensorSpec("int64", ("y axis 0", 3), high=None, name="y")]
    assert tensors.ranges == {"x axis 0": (1, 8)}
    with pytest.raises(StageError, match="'x' is BF16"):
        read_tensors(LIBRARY, DoublingEngine("BF16"))


class Library:
    """What of TensorRT's module loading an engine needs, for the engine above."""

    nptype = staticmethod(numpy_type)
    TensorIOMode = LIBRARY.TensorIOMode
    ILogger = type("ILogger", (), {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2})

    def __init__(self, load: Callable[[], DoublingEngine | None]) -> None:
        self.load = load

    def Runtime(self, log: Any) -> SimpleNamespace:  # noqa: N802  # the vendor's name
        def load(content: bytes) -> DoublingEngine | None:
            engine = self.load()
            if engine is None:
                log.log(1, "no\n  memory")
            return engine

        return SimpleNamespace(deserialize_cuda_engine=load)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    """An L4 whose driver is played by the host, and no process to look at engines first."""
    made = HostDriver()
    monkeypatch.setattr(cuda, "explain_missing_gpu", lambda: None)
    monkeypatch.setattr(cuda, "list_devices", lambda: [L4])
    monkeypatch.setattr(cuda, "load_library", lambda: made)
    monkeypatch.setattr(TensorRtRtx, "get_version", lambda self: "1.7.1.116")
    return made


def test_an_engine_is_opened_and_everything_is_given_back(
    tmp_path: Path, host: HostDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_engine, "probe_engine", lambda *asked: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Library(DoublingEngine))
    with TensorRtRtx().open({"model": engine_file(tmp_path)}, BuildSpec()) as predict:
        assert predict({"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2, 2, 2], [2, 2, 2]]
    assert host.given == {}
    assert host.calls[-1] == "cuDevicePrimaryCtxRelease_v2"


def test_whichever_thread_closes_an_engine_the_gpu_is_made_its_own_first() -> None:
    predict, host = session(DoublingEngine())
    predict.close()
    assert host.calls[-1] == "cuCtxSetCurrent"


@pytest.mark.parametrize("hosted", [True, False])
def test_only_a_version_compatible_engine_may_run_code_of_its_own_on_the_host(hosted: bool) -> None:
    made = tensorrt_engine.create_runtime(
        SimpleNamespace(Runtime=lambda log: SimpleNamespace(engine_host_code_allowed=False)), None, hosted
    )
    assert made.engine_host_code_allowed == hosted


def test_an_engine_that_the_library_does_not_load(tmp_path: Path, host: HostDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "probe_engine", lambda *asked: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Library(lambda: None))
    with (
        pytest.raises(StageError, match=r"model\.engine .*no memory"),
        TensorRtRtx().open({"model": engine_file(tmp_path)}, BuildSpec()),
    ):
        pass
    assert host.calls[-1] == "cuDevicePrimaryCtxRelease_v2"


def test_engines_are_checked_before_the_library_sees_them(
    tmp_path: Path, host: HostDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(file: Path) -> None:
        with TensorRtRtx().open({"model": file}, BuildSpec()):
            pass

    with pytest.raises(StageError, match=r"NVIDIA L4 has 8\.9"):
        opening(engine_file(tmp_path, bits=0b10))
    with pytest.raises(StageError, match=r"tensorrt_rtx 1\.6\.0\.5"):
        opening(engine_file(tmp_path, version=(1, 6, 0, 5)))
    monkeypatch.setattr(tensorrt_engine, "explain_unloadable", segfaulting)
    with pytest.raises(StageError, match=r"model\.engine .*\(SIGSEGV\)"):
        opening(engine_file(tmp_path))
    assert host.calls == []

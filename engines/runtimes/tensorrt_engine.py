"""TensorRT's engines: loading and running them."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np

from attar.engines.runtimes import child, cuda
from attar.engines.runtimes.cuda_graph import RecordedCall
from attar.engines.runtimes.kernel_cache import KernelCache, find_kernel_file
from attar.engines.runtimes.tensorrt_context import (
    DEFAULT_OPTIONS,
    SessionOptions,
    configure_runtime,
    create_context,
)
from attar.engines.runtimes.tensorrt_header import AGAIN
from attar.models.task import Predictor
from attar.models.tensors import Array, Arrays, AxisRanges, TensorSpec, find_input_mismatch
from attar.pipeline.core.errors import StageError

SECONDS = 600  # to look at an engine
SAID = {
    "VERSION_MISMATCH": "it is of another version of TensorRT-RTX",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: update the driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update TensorRT-RTX",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "the NVIDIA driver does not work",
}
"""The flags of TensorRT-RTX's EngineInvalidityDiagnostics."""


def probe_engine(module: str, title: str, file: Path, hosted: bool = False) -> None:
    """Load the engine once in a process of its own. Raises StageError when it cannot be loaded, or
    crashes what loads it."""
    request = {"module": module, "file": str(file), "hosted": hosted}
    if why := child.call_in_child(
        explain_unloadable, request, f"loading {file} with {title}", SECONDS
    ):
        raise StageError(f"{title} does not load {file}: {why}; {AGAIN}")


def explain_unloadable(request: Mapping[str, Any]) -> str | None:
    """The child's side of ``probe``: why the engine cannot be loaded, or None."""
    trt = import_tensorrt(request["module"])
    log, content = create_logger(trt), Path(request["file"]).read_bytes()
    runtime = create_runtime(trt, log, request["hosted"])
    if hasattr(runtime, "get_engine_validity"):
        validity, flags = runtime.get_engine_validity(content)
        if validity == trt.EngineValidity.INVALID:
            return (
                "; ".join(
                    [
                        *format_invalidity(flags, trt.EngineInvalidityDiagnostics.__members__),
                        *log.errors,
                    ]
                )
                or "it is invalid here"
            )
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None or engine.create_execution_context() is None:
        return "; ".join(log.errors) or "no reason was given"
    return None


def import_tensorrt(module: str) -> Any:
    """Imported by name, so that the versions of both count in the keys of engines."""
    if module == "tensorrt_rtx":
        import tensorrt_rtx

        return tensorrt_rtx
    import tensorrt

    return tensorrt


def create_runtime(trt: Any, log: Any, hosted: bool) -> Any:
    """``hosted``: the engine brings code for the host with it, as a version-compatible one does;
    else such code is refused."""
    made = trt.Runtime(log)
    if hosted:
        made.engine_host_code_allowed = True
    return made


def create_logger(trt: Any) -> Any:
    """Keeps what TensorRT says instead of printing it."""

    class Log(trt.ILogger):  # type: ignore[misc]  # its base is known when the library is there
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(" ".join(message.split()))

    return Log()


def format_invalidity(flags: int, members: Mapping[str, Any]) -> list[str]:
    """What the flags say, for a reader."""
    return [SAID.get(name, name) for name, flag in members.items() if flags & int(flag)]


@dataclass(frozen=True)
class EngineTensors:
    """The tensors of an engine, and the sizes that its profile allows for their dynamic axes."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    ranges: AxisRanges


def read_tensors(trt: Any, engine: Any) -> EngineTensors:
    """Raises StageError for an element type that numpy does not have."""
    inputs, outputs, ranges = [], [], {}
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        spec = read_tensor(trt, engine, name)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            inputs.append(spec)
            smallest, _, largest = engine.get_tensor_profile_shape(name, 0)
            for axis, low, high in zip(spec.axes, smallest, largest, strict=True):
                if isinstance(axis, str):
                    ranges[axis] = (low, high)
        else:
            outputs.append(spec)
    return EngineTensors(inputs, outputs, ranges)


def read_tensor(trt: Any, engine: Any, name: str) -> TensorSpec:
    """Return one tensor of an engine, which knows no names of axes."""
    dtype = numpy_name(trt, name, engine.get_tensor_dtype(name))
    shape = enumerate(engine.get_tensor_shape(name))
    axes = tuple(size if size >= 0 else f"{name} axis {number}" for number, size in shape)
    return TensorSpec(dtype, axes, high=None, name=name)


def check_output_shape(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape. Raises StageError for one that only the data decide."""
    if any(size < 0 for size in shape):
        raise StageError(
            f"the size of output {spec.name!r} depends on the data, {list(shape)}; such outputs "
            "are not supported"
        )
    return shape


def numpy_name(trt: Any, name: str, dtype: Any) -> str:
    try:
        return str(np.dtype(trt.nptype(dtype)).name)
    except TypeError as error:
        raise StageError(
            f"tensor {name!r} is {dtype.name}, which numpy does not have; give the graph float32 "
            "ends"
        ) from error


class EngineSession:
    """One engine on one GPU, as a function of named arrays. Calls of several threads take turns."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        memory: cuda.GpuMemory,
        log: Any,
        options: SessionOptions = DEFAULT_OPTIONS,
        kernels: Path | None = None,
    ) -> None:
        """``kernels``: the file of its kernels, if they are kept."""
        config = configure_runtime(trt, engine, options)
        self.kernels = KernelCache(config, kernels) if config and kernels else None
        self.engine, self.context = engine, create_context(engine, config)
        self.log, self.memory, self.lock = log, memory, Lock()
        is_recorded = options.cuda_graphs and config is None
        self.recorded = RecordedCall(memory.driver, memory.stream) if is_recorded else None
        del engine, config
        try:
            if self.context is None:
                self.refuse("cannot prepare the engine to run; is there memory on the GPU?")
            self.tensors = read_tensors(trt, self.engine)
        except StageError as error:
            # They hold the engine, and the error them, for longer than the GPU's context lives.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise

    def refuse(self, what: str) -> NoReturn:
        """Raises StageError with what TensorRT said."""
        said = "; ".join(self.log.errors)
        raise StageError(f"TensorRT {what}{f': {said}' if said else ''}")

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Raises StageError for inputs that the engine or its profile do not take."""
        self.check_inputs(inputs)
        with self.lock:
            self.memory.make_current()
            for spec in self.tensors.inputs:
                self.copy_input(spec, inputs[spec.name])
            shapes = {spec: self.prepare_output(spec) for spec in self.tensors.outputs}
            if not self.start(inputs):
                self.refuse("did not start the engine")
            staged = {
                spec.name: self.memory.copy_from_gpu(spec.name, shape, spec.dtype)
                for spec, shape in shapes.items()
            }
            self.memory.wait()
            return {name: array.copy() for name, array in staged.items()}

    def start(self, inputs: Arrays) -> bool:
        """Start the kernels, and return whether TensorRT did."""
        if self.recorded is None:
            return self.enqueue()
        shapes = tuple(inputs[spec.name].shape for spec in self.tensors.inputs)
        return self.recorded.start((shapes, self.memory.list_addresses()), self.enqueue)

    def enqueue(self) -> bool:
        return bool(self.context.execute_async_v3(self.memory.stream))

    def check_inputs(self, inputs: Arrays) -> None:
        if mismatch := find_input_mismatch(self.tensors.inputs, inputs, self.tensors.ranges):
            raise StageError(mismatch)

    def copy_input(self, spec: TensorSpec, array: Array) -> None:
        """Start to copy an input to the GPU."""
        name, context = spec.name, self.context
        address = self.memory.copy_to_gpu(name, array)
        if not context.set_input_shape(name, array.shape) or not context.set_tensor_address(
            name, address
        ):
            self.refuse(f"refuses {list(array.shape)} for input {name!r}")

    def prepare_output(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of an output, which all inputs decide: they must be set."""
        shape = check_output_shape(spec, tuple(self.context.get_tensor_shape(spec.name)))
        size = math.prod(shape) * np.dtype(spec.dtype).itemsize
        self.context.set_tensor_address(spec.name, self.memory.reserve(spec.name, size))
        return shape

    def close(self) -> None:
        """While the memory that the engine was told of and the GPU's context, made that of this
        thread, are still there."""
        self.memory.make_current()
        if self.recorded is not None:
            self.recorded.close()
        if self.kernels is not None and self.context is not None:
            self.kernels.save()
        del self.context, self.engine


@contextmanager
def open_engines(
    module: str, files: Mapping[str, Path], options: SessionOptions = DEFAULT_OPTIONS
) -> Iterator[Predictor]:
    """Engines that were checked, on the first GPU."""
    trt = import_tensorrt(module)
    with ExitStack() as stack:
        driver = cuda.CudaDriver(cuda.load_library())
        context, log = stack.enter_context(cuda.open_context(driver)), create_logger(trt)
        runtime, graphs = create_runtime(trt, log, options.hosted), {}
        for name, file in files.items():
            memory = cuda.GpuMemory(driver, context)
            stack.callback(memory.close)
            kernels = find_kernel_file(file) if options.runtime_cache else None
            graphs[name] = EngineSession(
                trt, load_engine(runtime, log, file), memory, log, options, kernels
            )
            stack.callback(graphs[name].close)
        yield Predictor(dict(graphs))


def load_engine(runtime: Any, log: Any, file: Path) -> Any:
    engine = runtime.deserialize_cuda_engine(file.read_bytes())
    if engine is None:
        raise StageError(
            f"{file} cannot be loaded: {'; '.join(log.errors) or 'no reason was given'}; {AGAIN}"
        )
    return engine

"""ONNX Runtime: the only place where its sessions are opened, and none of them falls back in silence."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.models.task import Array, Arrays, Predict, Predictor, Task
from attar.pipeline.errors import StageError, did_you_mean
from attar.stages.runtimes.runtime import Asked, Environment, Refused, Runtime

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
FATAL = 4  # ONNX Runtime's log level: what it calls an error it also raises, and one message is enough
REFUSED = ["WeightBiasQuantization"]  # would quantize nodes that the graph keeps float, because their neighbours are int8
DTYPES = {"float": "float32", "double": "float64"}  # where its names of element types are not numpy's
FLAGS = frozenset(
    {"fma", "avx", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx_vnni"}
    | {"amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"}
)
"""The CPU features by which its kernels are chosen."""


class OnnxRuntime(Runtime):
    """Engines are graphs as it optimized them: fused, kernels and memory layout chosen."""

    title = "ONNX Runtime"
    suffix = ".onnx"
    knows = frozenset({"provider", "threads"})

    def environment(self) -> Environment:
        return Environment(version(), machine())

    def supports(self, source: Path, task: Task, asked: Asked) -> Sequence[Refused]:
        return []

    def build(self, source: Path, target: Path, task: Task, asked: Asked) -> None:
        from attar.stages.runtimes.widening import widened

        write_optimized(widened(source) if asked.provider == CPU else source, target, asked.provider)

    def opened(self, files: Mapping[str, Path], asked: Asked) -> AbstractContextManager[Predictor]:
        return opened(files, asked.threads, asked.provider, optimize=False)

    def counts(self) -> Sequence[int]:
        return powers(cores())


@contextmanager
def opened(
    files: Mapping[str, Path | bytes], threads: int | None, provider: str = CPU, *, optimize: bool = True
) -> Iterator[Predictor]:
    """Sessions of named graphs, files or serialized models; ``optimize=False`` runs them as they are written.

    ``threads``: intra-op threads, None for every core that this process may use. Raises StageError when the graph
    cannot be loaded or the provider is not there, and, when called, for inputs that the graph does not take.
    """
    yield Predictor({name: predictor(session(file, threads, provider, optimize)) for name, file in files.items()})


def session(file: Path | bytes, threads: int | None, provider: str, optimize: bool) -> onnxruntime.InferenceSession:
    """A session that runs on ``provider`` alone, or StageError."""
    return started(file, options(threads, provider, optimize), provider)


def options(threads: int | None, provider: str, optimize: bool) -> onnxruntime.SessionOptions:
    import onnxruntime

    count = cores() if threads is None else threads
    if count < 1:
        raise StageError(f"a session of {count} threads was asked for; give 1 or more, or none for every core")
    level = onnxruntime.GraphOptimizationLevel
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads = count, 1
    made.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    made.log_severity_level = FATAL
    made.add_session_config_entry("session.intra_op.allow_spinning", "1" if count > 1 else "0")
    if provider != CPU:  # nodes that the provider does not take are then an error instead of slow
        made.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return made


def started(file: Path | bytes, options: onnxruntime.SessionOptions, provider: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise StageError(f"this ONNX Runtime has no provider {provider!r}; {did_you_mean(provider, available)}")
    try:
        made = onnxruntime.InferenceSession(file, options, providers=[provider], disabled_optimizers=REFUSED)
    except Exception as error:
        name = "the graph" if isinstance(file, bytes) else str(file)
        raise StageError(f"ONNX Runtime cannot open {name} on {provider}: {error}") from error
    if made.get_providers()[0] != provider:
        raise StageError(f"{provider} was asked for, but ONNX Runtime runs on {', '.join(made.get_providers())}")
    return made


def predictor(session: onnxruntime.InferenceSession) -> Predict:
    """Named arrays to named arrays. The inputs are looked at only when the runtime refuses them: a good call pays nothing."""
    names = [output.name for output in session.get_outputs()]

    def predict(inputs: Arrays) -> dict[str, Array]:
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:
            raise StageError(
                refusal(session.get_inputs(), inputs) or f"ONNX Runtime failed: {' '.join(str(error).split())}"
            ) from error

    return predict


def refusal(wanted: list[Any], got: Arrays) -> str | None:
    """What is wrong with the inputs, for a reader; None if nothing is."""
    for want in wanted:
        if want.name not in got:
            return f"the graph wants an input {want.name!r} ({form(want)}) and got {', '.join(got) or 'none'}"
        array = np.asarray(got[want.name])
        if not fits(want, array):
            return f"input {want.name!r} must be {form(want)}, got {array.dtype} {list(array.shape)}"
    unknown = sorted(got.keys() - {want.name for want in wanted})
    if unknown:
        return f"the graph has no input {unknown[0]!r}: {did_you_mean(unknown[0], [want.name for want in wanted])}"
    return None


def fits(want: Any, array: Array) -> bool:
    if array.dtype.name != dtype(want) or array.ndim != len(want.shape):
        return False
    return all(not isinstance(size, int) or size == n for size, n in zip(want.shape, array.shape, strict=True))


def form(want: Any) -> str:
    return f"{dtype(want)} {list(want.shape)}".replace("'", "")


def dtype(want: Any) -> str:
    """``tensor(float)`` -> ``float32``."""
    name = str(want.type).removeprefix("tensor(").removesuffix(")")
    return DTYPES.get(name, name)


def write_optimized(source: Path | bytes, target: Path, provider: str = CPU) -> None:
    """Write the graph that ONNX Runtime really runs on this machine: fused, quantized kernels and memory layout chosen."""
    wanted = options(1, provider, optimize=True)
    wanted.optimized_model_filepath = str(target)
    started(source, wanted, provider)


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def powers(cores: int) -> list[int]:
    """1, 2, 4, ... and every core."""
    return [*(1 << power for power in range(cores.bit_length()) if 1 << power < cores), cores]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> dict[str, Any]:
    """What its choice of kernels depends on."""
    return {"architecture": platform.machine(), "cores": cores(), "flags": sorted(FLAGS & cpu_flags())}


def cpu_flags() -> set[str]:
    """What the kernel says that the CPU can do; Linux calls it ``flags`` on x86 and ``Features`` on Arm."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()

"""Offers: the candidates that this machine can run, found without loading a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from attar.engines.cpu import cpu_flags
from attar.engines.runtimes.openvino import NATIVE
from attar.engines.runtimes.runtime import RUNTIMES
from attar.pipeline.keys.machine import list_gpus

CUDA = "CUDAExecutionProvider"


def list_runnable_candidates() -> list[dict[str, str]]:
    """Return what ``candidates = "all"`` stands for: precision, runtime, and the provider if
    needed."""
    return [*list_on_cpu(), *(list_on_gpu() if list_gpus() else ())]


def list_on_cpu() -> Iterator[dict[str, str]]:
    for precision in ("fp32", "int8", "int8-dynamic", "int8-weights"):
        yield {"runtime": "onnxruntime", "precision": precision}
    if is_runtime_here("openvino", "openvino"):
        for precision in ("fp32", "bf16", "fp16", "int8"):
            if precision not in NATIVE or NATIVE[precision] & cpu_flags():
                yield {"runtime": "openvino", "precision": precision}


def list_on_gpu() -> Iterator[dict[str, str]]:
    if is_installed("onnxruntime-gpu"):
        for precision in ("fp32", "fp16"):
            yield {"runtime": "onnxruntime", "precision": precision, "provider": CUDA}
    for runtime, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        if is_runtime_here(runtime, module):
            for precision in ("fp16", "int8"):
                yield {"runtime": runtime, "precision": precision}


def is_runtime_here(runtime: str, module: str) -> bool:
    """Whether attar knows this runtime and its library is installed."""
    return runtime in RUNTIMES and find_spec(module) is not None


def is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True

"""ONNX Runtime's execution providers: what they are, what they need, and which runs where."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO

from attar.engines.runtimes import cuda
from attar.pipeline.core.errors import MissingDependencyError, StageError, suggest_name
from attar.pipeline.core.stage import Device

CPU, CUDA, OPENVINO = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "OpenVINO"))
DEVICE_PROVIDERS = {"cpu": CPU, "cuda": CUDA}
NVIDIA = frozenset({CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})
DATA_ALONE = frozenset({CPU, CUDA})
"""Providers that have kernels for operators, and run no code that a graph brings along."""
TOLERANCES = {"fp16": 1e-2, "int8": 5e-2}
"""On a GPU, as TensorRT's: each result is rounded to half, and int8 is computed in float."""
SIZE_OPERATORS = frozenset({"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand"})
SIZE_OPERATORS |= {"Gather", "Identity", "Max", "Min", "Mod", "Mul", "Range", "Reshape", "Shape"}
SIZE_OPERATORS |= {"Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"}
"""Operators that compute sizes of tensors, which ONNX Runtime's GPU providers leave to the CPU."""
PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA: {"use_tf32": "0"}}
"""float32 is float32: its default lets factors of float32 be rounded to 10 bits."""
PACKAGES = dict.fromkeys(NVIDIA, "onnxruntime-gpu") | {OPENVINO: "onnxruntime-openvino"}


def select_device(requested: Device) -> str:
    """Return where a graph runs that was built for no device; ``auto`` is a GPU if one can be used.

    Raises StageError if CUDA is asked for and there is no GPU, MissingDependencyError if this ONNX
    Runtime has no provider for it.
    """
    if requested == "cpu":
        return "cpu"
    import onnxruntime

    missing = cuda.explain_missing_gpu()
    if not missing and CUDA in onnxruntime.get_available_providers():
        return "cuda"
    if requested == "cuda":
        if missing:
            raise StageError(f"device is 'cuda', but there is {missing}; use --device cpu")
        check_provider(CUDA)
    return "cpu"


@cache
def preload_libraries() -> str:
    """Load the libraries of CUDA and cuDNN that packages brought.

    Return what could not be loaded, which ONNX Runtime only prints, for the end of a message.
    """
    import onnxruntime

    with redirect_stdout(StringIO()) as printed:
        onnxruntime.preload_dlls()
    said = " ".join(printed.getvalue().split())
    return f": {said}" if said else ""


def check_provider(provider: str) -> None:
    """Check that a provider is here.

    Raises StageError for a name that ONNX Runtime does not know, MissingDependencyError for one
    that this build of it does not have.
    """
    import onnxruntime

    known, available = onnxruntime.get_all_providers(), onnxruntime.get_available_providers()
    if provider in available:
        return
    if provider not in {*known, *PACKAGES}:
        raise StageError(
            f"ONNX Runtime has no provider {provider!r}; {suggest_name(provider, known)}"
        )
    package = PACKAGES.get(provider, "a build of ONNX Runtime that has it")
    raise MissingDependencyError(
        f"this ONNX Runtime has no provider {provider!r}: install {package} in place of onnxruntime"
    )

"""ONNX Runtime's sessions: one graph on one provider, and its calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.runtimes import cuda, runtime
from attar.engines.runtimes.providers import (
    CPU,
    NVIDIA,
    PROVIDER_OPTIONS,
    check_provider,
    preload_libraries,
)
from attar.engines.runtimes.runtime import RefusedNode
from attar.models.task import Predict
from attar.models.tensors import Array, Arrays, TensorSpec, has_foreign_byte_order
from attar.pipeline.core.errors import StageError
from attar.pipeline.keys.machine import count_cores

if TYPE_CHECKING:
    import onnxruntime

FATAL_LEVEL = 4
"""What ONNX Runtime logs below this level it also raises, and one message is enough."""
DISABLED_OPTIMIZERS = ("WeightBiasQuantization",)
"""It would quantize nodes that the graph keeps float, because their neighbours are int8."""
DISABLED_IN_HALF = ("MatmulTransposeFusion",)
"""It ends the process (SIGSEGV, ONNX Runtime 1.32) in attention of half precision on a CPU."""
DTYPES = {"float": "float32", "double": "float64"}
"""Its names of element types that are not numpy's."""


def make_session_options(
    threads: int | None,
    provider: str,
    *,
    optimize: bool = True,
    integers: bool = True,
    half: bool = False,
) -> onnxruntime.SessionOptions:
    import onnxruntime

    count = runtime.check_threads(count_cores() if threads is None else threads)
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = count, 1
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
    disabled = DISABLED_OPTIMIZERS + (DISABLED_IN_HALF if half and provider == CPU else ())
    options.add_session_config_entry(
        "optimization.disable_specified_optimizers", ";".join(disabled)
    )
    options.log_severity_level = FATAL_LEVEL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if count > 1 else "0")
    if provider != CPU:  # the CPU provider takes every node that ONNX Runtime knows
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def start_session(
    file: Path | bytes, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession:
    """Return a session, some of whose nodes may run on another provider.

    Raises MissingDependencyError for a provider that another package has.
    """
    import onnxruntime

    check_provider(provider)
    said = ""
    if provider in NVIDIA:
        cuda.check_tf32_override()
        cuda.release_torch_memory()
        said = preload_libraries()
    try:
        session = onnxruntime.InferenceSession(
            file,
            options,
            providers=[(provider, dict(PROVIDER_OPTIONS.get(provider, {})))],
        )
    except Exception as error:
        name, reason = (
            "the graph" if isinstance(file, bytes) else file,
            " ".join(str(error).split()),
        )
        raise StageError(f"ONNX Runtime cannot open {name} on {provider}: {reason}") from error
    used = session.get_providers()
    if used[0] != provider:
        raise StageError(
            f"{provider} was asked for, but ONNX Runtime runs on {', '.join(used)}{said}"
        )
    return session


def list_stray_nodes(session: onnxruntime.InferenceSession, provider: str) -> list[RefusedNode]:
    """Return the nodes that run on another provider."""
    if provider == CPU:
        return []
    parts = session.get_provider_graph_assignment_info()
    return [
        RefusedNode(node.name, node.op_type, f"it runs on {part.ep_name}")
        for part in parts
        if part.ep_name != provider
        for node in part.get_nodes()
    ]


def make_predictor(session: onnxruntime.InferenceSession) -> Predict:
    """Return a session as a function of named arrays.

    Inputs are checked when the runtime refuses them, but their byte order first: it does not look
    at that.
    """
    names = [output.name for output in session.get_outputs()]

    def predict(inputs: Arrays) -> dict[str, Array]:
        try:
            if has_foreign_byte_order(inputs):
                raise ValueError("byte order")
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:
            specs = [describe_port(port) for port in session.get_inputs()]
            raise runtime.make_call_error("ONNX Runtime", specs, inputs, str(error)) from error

    return predict


def describe_port(port: onnxruntime.NodeArg) -> TensorSpec:
    """Return an input of a session; its type reads ``tensor(float)``."""
    name = str(port.type).removeprefix("tensor(").removesuffix(")")
    return TensorSpec(DTYPES.get(name, name), tuple(port.shape), high=None, name=port.name)

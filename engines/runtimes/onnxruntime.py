"""ONNX Runtime's sessions, which are opened here alone; none falls back in silence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.runtimes import cuda, runtime
from attar.engines.runtimes.runtime import PRECISIONS, BuildSpec, CpuRuntime, RefusedNode
from attar.models.task import Predict, Predictor
from attar.models.tensors import Array, Arrays, TensorSpec, has_foreign_byte_order
from attar.pipeline.core.errors import MissingDependencyError, StageError, suggest_name
from attar.pipeline.core.stage import Device
from attar.pipeline.keys.machine import count_cores, list_gpus

if TYPE_CHECKING:
    import onnxruntime

CPU, CUDA, OPENVINO = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "OpenVINO"))
DEVICE_PROVIDERS = {"cpu": CPU, "cuda": CUDA}
NVIDIA = frozenset({CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})
DATA_ALONE = frozenset({CPU, CUDA})
"""Providers that have kernels for operators, and run no code that a graph brings along."""
COMPILES = NVIDIA - {CUDA} | {OPENVINO}
"""Providers that make one node of many, which no file can hold.

For them an engine is the graph, and opening it compiles.
"""
PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {CUDA: {"use_tf32": "0"}}
"""float32 is float32: its default lets factors of float32 be rounded to 10 bits."""
PACKAGES = dict.fromkeys(NVIDIA, "onnxruntime-gpu") | {OPENVINO: "onnxruntime-openvino"}
FATAL_LEVEL = 4
"""What ONNX Runtime logs below this level it also raises, and one message is enough."""
DISABLED_OPTIMIZERS = ["WeightBiasQuantization"]
"""It would quantize nodes that the graph keeps float, because their neighbours are int8."""
DTYPES = {"float": "float32", "double": "float64"}
"""Its names of element types that are not numpy's."""
UNKNOWN = re.compile(r"(\S+)\(-?\d+\) is not a registered function/op")
NODES_SHOWN = 3


class OnnxRuntime(CpuRuntime):
    """Engines are graphs that ONNX Runtime optimized: fused, kernels and memory layout chosen."""

    title = "ONNX Runtime"
    suffix = ".onnx"
    knows = frozenset({"provider", "threads"})
    provider = CPU
    precisions = PRECISIONS | {"int8-weights"}

    def native_content(self, asked: BuildSpec) -> str | None:
        """Return what of an engine is native code; a graph is data.

        But a provider that compiles takes what a node ``EPContext`` holds for its own engine.
        """
        provider = asked.provider or CPU
        is_data = provider in DATA_ALONE
        return None if is_data else f"a graph for {provider} may hold what that compiled"

    def get_version(self) -> str:
        import onnxruntime

        return str(onnxruntime.__version__)

    def find_refused_nodes(self, source: Path, asked: BuildSpec) -> Sequence[RefusedNode]:
        provider = asked.provider or CPU
        options = make_session_options(1, provider, optimize=True)
        try:
            return list_stray_nodes(start_session(source, options, provider), provider)
        except StageError as error:
            if unknown := UNKNOWN.search(str(error)):
                return [RefusedNode(None, unknown[1], "ONNX Runtime does not have it")]
            raise

    def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
        provider = asked.provider or CPU
        if provider in COMPILES:
            shutil.copyfile(source, target)
        else:
            write_optimized(read_graph(source) if provider == CPU else source, target, provider)

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return "no NVIDIA GPU" if asked.provider in NVIDIA and not list_gpus() else None

    def find_device(self, provider: str | None) -> str:
        return "cuda" if provider in NVIDIA else "cpu"

    def check_available(self, asked: BuildSpec) -> None:
        check_provider(asked.provider or CPU)

    def open(
        self, files: Mapping[str, Path], asked: BuildSpec
    ) -> AbstractContextManager[Predictor]:
        return open_session(files, asked.threads, asked.provider or CPU, optimize=False)


def select_device(requested: Device) -> str:
    """Return where a graph runs that was built for no device; ``auto`` is a GPU if one can be used.

    Raises StageError if CUDA is asked for and there is no GPU, MissingDependencyError if this ONNX
    Runtime has no provider for it.
    """
    if requested == "cpu":
        return "cpu"
    import onnxruntime

    has_gpu = bool(list_gpus())
    if has_gpu and CUDA in onnxruntime.get_available_providers():
        return "cuda"
    if requested == "cuda":
        if not has_gpu:
            raise StageError("device is 'cuda', and there is no NVIDIA GPU; use --device cpu")
        check_provider(CUDA)
    return "cpu"


@contextmanager
def open_session(
    files: Mapping[str, Path | bytes],
    threads: int | None,
    provider: str = CPU,
    *,
    optimize: bool = True,
    integers: bool = True,
) -> Iterator[Predictor]:
    """Open sessions of named graphs, files or serialized models.

    ``optimize=False`` runs them as they are written. ``integers=False`` computes what Q-DQ pairs
    enclose in float instead of bytes. ``threads`` are intra-op threads, None: all cores that this
    process may use. Raises StageError if the graph cannot be loaded or the provider is not there,
    and, when called, for inputs that the graph does not take.
    """
    options = make_session_options(threads, provider, optimize, integers)
    sessions = {name: create_session(file, options, provider) for name, file in files.items()}
    yield Predictor({name: make_predictor(session) for name, session in sessions.items()})


def create_session(
    file: Path | bytes, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession:
    """Return a session that runs every node on ``provider``, or raise StageError."""
    session = start_session(file, options, provider)
    if strays := list_stray_nodes(session, provider):
        shown = "; ".join(map(str, strays[:NODES_SHOWN]))
        raise StageError(
            f"{provider} was asked for, but does not run {len(strays)} nodes of the graph: {shown}"
        )
    return session


def make_session_options(
    threads: int | None, provider: str, optimize: bool, integers: bool = True
) -> onnxruntime.SessionOptions:
    import onnxruntime

    count = runtime.check_threads(count_cores() if threads is None else threads)
    level = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = count, 1
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
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
    if provider in NVIDIA:
        cuda.check_tf32_override()
    try:
        session = onnxruntime.InferenceSession(
            file,
            options,
            providers=[(provider, dict(PROVIDER_OPTIONS.get(provider, {})))],
            disabled_optimizers=DISABLED_OPTIMIZERS,
        )
    except Exception as error:
        name, reason = (
            "the graph" if isinstance(file, bytes) else file,
            " ".join(str(error).split()),
        )
        raise StageError(f"ONNX Runtime cannot open {name} on {provider}: {reason}") from error
    used = session.get_providers()
    if used[0] != provider:
        raise StageError(f"{provider} was asked for, but ONNX Runtime runs on {', '.join(used)}")
    return session


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


def read_graph(source: Path) -> Path | bytes:
    """Return the graph in the form for which its CPU kernels are fast.

    Raises MissingDependencyError without onnx, which is needed to build and never to open.
    """
    if find_spec("onnx") is None:
        raise runtime.make_missing_error("onnx", "train")
    from attar.engines.graphs.channel_padding import pad_channels

    return pad_channels(source)


def describe_port(port: onnxruntime.NodeArg) -> TensorSpec:
    """Return an input of a session; its type reads ``tensor(float)``."""
    name = str(port.type).removeprefix("tensor(").removesuffix(")")
    return TensorSpec(DTYPES.get(name, name), tuple(port.shape), high=None, name=port.name)


def write_optimized(source: Path | bytes, target: Path, provider: str = CPU) -> None:
    """Write the graph that ONNX Runtime runs on this machine.

    It is fused, its quantized kernels and its memory layout are chosen.
    """
    options = make_session_options(1, provider, optimize=True)
    options.optimized_model_filepath = str(target)
    start_session(source, options, provider)

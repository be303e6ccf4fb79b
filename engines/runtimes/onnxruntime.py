"""ONNX Runtime's sessions, which are opened here alone; none falls back in silence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.graphs.placement import SYMMETRIC
from attar.engines.runtimes import cuda, runtime
from attar.engines.runtimes.providers import (
    CPU,
    CUDA,
    DATA_ALONE,
    NVIDIA,
    PROVIDER_OPTIONS,
    SIZE_OPERATORS,
    TOLERANCES,
    check_provider,
    preload_libraries,
)
from attar.engines.runtimes.runtime import (
    PRECISIONS,
    ROUNDING,
    BuildSpec,
    CpuRuntime,
    RefusedNode,
)
from attar.engines.runtimes.split_calls import SplitCalls
from attar.models.generation import FOLLOW, MODEL
from attar.models.task import Predict, Predictor
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
        options = make_session_options(1, provider, half=asked.precision == "fp16")
        try:
            strays = list_stray_nodes(start_session(source, options, provider), provider)
            return drop_size_nodes(strays, source) if strays else []
        except StageError as error:
            if unknown := UNKNOWN.search(str(error)):
                return [RefusedNode(None, unknown[1], "ONNX Runtime does not have it")]
            raise

    def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
        provider = asked.provider or CPU
        if provider == CPU:
            write_optimized(read_graph(source), target, half=asked.precision == "fp16")
        else:
            shutil.copyfile(source, target)

    def get_tolerance(self, precision: str, provider: str | None = None) -> float:
        known = TOLERANCES if provider in NVIDIA else self.tolerances
        return known.get(precision, ROUNDING)

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return cuda.explain_missing_gpu() if asked.provider in NVIDIA else None

    def find_device(self, provider: str | None) -> str:
        return "cuda" if provider in NVIDIA else "cpu"

    def check_available(self, asked: BuildSpec) -> None:
        check_provider(asked.provider or CPU)

    def open(
        self, files: Mapping[str, Path], asked: BuildSpec
    ) -> AbstractContextManager[Predictor]:
        provider = asked.provider or CPU
        return open_session(files, asked.threads, provider, optimize=provider == CUDA)


@contextmanager
def open_session(
    files: Mapping[str, Path | bytes],
    threads: int | None,
    provider: str = CPU,
    *,
    optimize: bool = True,
    precision: str = "fp32",
    placement: str | None = None,
    splits: bool = False,
) -> Iterator[Predictor]:
    """Open sessions of named graphs, files or serialized models.

    ``optimize=False`` runs them as they are written. ``precision`` and ``placement`` say what is
    baked in. An int8 graph for GPUs, of symmetric placement, is computed as it is written, in float
    between its pairs: the integer kernels of a CPU may saturate. ``splits=True`` cuts a batch that
    a GPU has no memory for. ``threads`` are intra-op threads, None: all cores that this process may
    use.

    Raises StageError if the graph cannot be loaded or the provider is not there, and, when called,
    for inputs that the graph does not take.
    """
    is_symmetric = placement == SYMMETRIC.name
    half = is_symmetric or precision == "fp16"
    options = make_session_options(
        threads, provider, optimize=optimize, integers=not is_symmetric, half=half
    )
    sessions = {name: create_session(file, options, provider) for name, file in files.items()}
    graphs = {name: make_predictor(session) for name, session in sessions.items()}
    if splits and provider in NVIDIA:  # of other graphs not all that they read is a batch
        whole = graphs.keys() & {MODEL, FOLLOW}
        graphs |= {name: SplitCalls(graphs[name], (str(files[name]), name)) for name in whole}
    yield Predictor(graphs)


def create_session(
    file: Path | bytes, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession:
    """Return a session that runs every node on ``provider``, or raise StageError."""
    session = start_session(file, options, provider)
    strays = list_stray_nodes(session, provider)
    if strays := [node for node in strays if node.operator not in SIZE_OPERATORS]:
        shown = "; ".join(map(str, strays[:NODES_SHOWN]))
        raise StageError(
            f"{provider} was asked for, but does not run {len(strays)} nodes of the graph: {shown}"
        )
    return session


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


def drop_size_nodes(strays: Sequence[RefusedNode], source: Path) -> list[RefusedNode]:
    """Return the nodes that compute more than sizes. Building reads the graph, opening does not."""
    from attar.engines.graphs.inspection import list_size_nodes

    sizes = list_size_nodes(source)
    return [node for node in strays if node.node not in sizes]


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


def write_optimized(source: Path | bytes, target: Path, *, half: bool = False) -> None:
    """Write the graph that ONNX Runtime runs on the CPU of this machine.

    It is fused, its quantized kernels and its memory layout are chosen. That of a GPU would hold
    copies between the devices, with which it does not load again
    (https://github.com/microsoft/onnxruntime/issues/11348).
    """
    options = make_session_options(1, CPU, half=half)
    options.optimized_model_filepath = str(target)
    start_session(source, options, CPU)

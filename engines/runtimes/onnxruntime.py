"""ONNX Runtime: builds graphs and opens them; no node falls back to another provider in silence."""

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
from attar.engines.runtimes.onnxruntime_sessions import (
    list_stray_nodes,
    make_predictor,
    make_session_options,
    start_session,
)
from attar.engines.runtimes.providers import (
    CPU,
    CUDA,
    DATA_ALONE,
    NVIDIA,
    SIZE_OPERATORS,
    TOLERANCES,
    check_provider,
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
from attar.models.task import Predictor
from attar.pipeline.core.errors import StageError

if TYPE_CHECKING:
    import onnxruntime

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


def drop_size_nodes(strays: Sequence[RefusedNode], source: Path) -> list[RefusedNode]:
    """Return the nodes that compute more than sizes. Building reads the graph, opening does not."""
    from attar.engines.graphs.inspection import list_size_nodes

    sizes = list_size_nodes(source)
    return [node for node in strays if node.node not in sizes]


def read_graph(source: Path) -> Path | bytes:
    """Return the graph in the form for which its CPU kernels are fast.

    Raises MissingDependencyError without onnx, which is needed to build and never to open.
    """
    if find_spec("onnx") is None:
        raise runtime.make_missing_error("onnx", "train")
    from attar.engines.graphs.channel_padding import pad_channels

    return pad_channels(source)


def write_optimized(source: Path | bytes, target: Path, *, half: bool = False) -> None:
    """Write the graph that ONNX Runtime runs on the CPU of this machine.

    It is fused, its quantized kernels and its memory layout are chosen. That of a GPU would hold
    copies between the devices, with which it does not load again
    (https://github.com/microsoft/onnxruntime/issues/11348).
    """
    options = make_session_options(1, CPU, half=half)
    options.optimized_model_filepath = str(target)
    start_session(source, options, CPU)

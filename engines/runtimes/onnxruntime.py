"""ONNX Runtime's sessions, which are opened here alone; none falls back in silence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.cpu import describe_machine, list_core_counts
from attar.engines.runtimes.runtime import (
    BuildSpec,
    EngineEnvironment,
    RefusedNode,
    Runtime,
    make_missing_error,
)
from attar.models.task import Predict, Predictor, Task
from attar.models.tensors import (
    Array,
    Arrays,
    TensorSpec,
    find_input_mismatch,
    has_foreign_byte_order,
)
from attar.pipeline.core.errors import MissingDependencyError, StageError, suggest_name
from attar.pipeline.keys.machine import count_cores, list_gpus

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
FATAL = (
    4  # ONNX Runtime's log level: what it calls an error it also raises, and one message is enough
)
REFUSED = [
    "WeightBiasQuantization"
]  # would quantize nodes that the graph keeps float, because their neighbours are int8
DTYPES = {
    "float": "float32",
    "double": "float64",
}  # where its names of element types are not numpy's
NVIDIA = frozenset(
    {"CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"}
)
DATA_ALONE = frozenset({CPU, "CUDAExecutionProvider"})
"""Providers that have kernels for operators, and run no code that a graph brings along."""
COMPILES = NVIDIA - {"CUDAExecutionProvider"} | {"OpenVINOExecutionProvider"}
"""Providers that make one node of many, which no file can hold.

For them an engine is the graph, and opening it compiles.
"""
PACKAGES = dict.fromkeys(NVIDIA, "onnxruntime-gpu") | {
    "OpenVINOExecutionProvider": "onnxruntime-openvino"
}
UNKNOWN = re.compile(r"(\S+)\(-?\d+\) is not a registered function/op")
NAMED = 3  # nodes that a message names


class OnnxRuntime(Runtime):
    """Engines are graphs that ONNX Runtime optimized: fused, kernels and memory layout chosen."""

    title = "ONNX Runtime"
    suffix = ".onnx"
    knows = frozenset({"provider", "threads"})
    provider = CPU

    def native_content(self, asked: BuildSpec) -> str | None:
        """Return what of an engine is native code; a graph is data.

        But a provider that compiles takes what a node ``EPContext`` holds for its own engine.
        """
        provider = asked.provider or CPU
        return (
            None
            if provider in DATA_ALONE
            else f"a graph for {provider} may hold what that compiled"
        )

    def describe_environment(self) -> EngineEnvironment:
        return EngineEnvironment(get_version(), describe_machine())

    def find_refused_nodes(
        self, source: Path, task: Task, asked: BuildSpec
    ) -> Sequence[RefusedNode]:
        provider = asked.provider or CPU
        try:
            made = start_session(source, make_session_options(1, provider, optimize=True), provider)
        except StageError as error:
            if unknown := UNKNOWN.search(str(error)):
                return [RefusedNode(None, unknown[1], "ONNX Runtime does not have it")]
            raise
        return [
            RefusedNode(node, operator, f"it runs on {where}")
            for where, node, operator in list_stray_nodes(made, provider)
        ]

    def build(self, source: Path, target: Path, task: Task, asked: BuildSpec) -> None:
        provider = asked.provider or CPU
        if provider in COMPILES:
            shutil.copyfile(source, target)
        else:
            write_optimized(read_graph(source) if provider == CPU else source, target, provider)

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return "no NVIDIA GPU" if asked.provider in NVIDIA and not list_gpus() else None

    def check_available(self, asked: BuildSpec) -> None:
        check_provider(asked.provider or CPU)

    def open(
        self, files: Mapping[str, Path], asked: BuildSpec
    ) -> AbstractContextManager[Predictor]:
        return open_session(files, asked.threads, asked.provider or CPU, optimize=False)

    def list_thread_counts(self) -> Sequence[int]:
        return list_core_counts(count_cores())


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
    yield Predictor(
        {
            name: make_predictor(
                create_session(
                    file, make_session_options(threads, provider, optimize, integers), provider
                )
            )
            for name, file in files.items()
        }
    )


def create_session(
    file: Path | bytes, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession:
    """Return a session that runs every node on ``provider``, or raise StageError."""
    made = start_session(file, options, provider)
    if strays := list_stray_nodes(made, provider):
        told = ", ".join(
            f"{operator} {node!r} on {where}" for where, node, operator in strays[:NAMED]
        )
        raise StageError(
            f"{provider} was asked for, but ONNX Runtime runs {told}; {len(strays)} nodes in all"
        )
    return made


def make_session_options(
    threads: int | None, provider: str, optimize: bool, integers: bool = True
) -> onnxruntime.SessionOptions:
    import onnxruntime

    count = count_cores() if threads is None else threads
    if count < 1:
        raise StageError(
            f"a session of {count} threads was asked for; give 1 or more, or none for every core"
        )
    level = onnxruntime.GraphOptimizationLevel
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads = count, 1
    made.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    made.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
    made.log_severity_level = FATAL
    made.add_session_config_entry("session.intra_op.allow_spinning", "1" if count > 1 else "0")
    if (
        provider != CPU
    ):  # it takes every node that ONNX Runtime knows, so there is nothing to look for
        made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return made


def start_session(
    file: Path | bytes, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession:
    """Return a session, some of whose nodes may run on another provider.

    Raises MissingDependencyError for a provider that another package has.
    """
    import onnxruntime

    check_provider(provider)
    try:
        made = onnxruntime.InferenceSession(
            file, options, providers=[provider], disabled_optimizers=REFUSED
        )
    except Exception as error:
        name = "the graph" if isinstance(file, bytes) else str(file)
        raise StageError(
            f"ONNX Runtime cannot open {name} on {provider}: {' '.join(str(error).split())}"
        ) from error
    if made.get_providers()[0] != provider:
        raise StageError(
            f"{provider} was asked for, but ONNX Runtime runs on {', '.join(made.get_providers())}"
        )
    return made


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


def list_stray_nodes(
    session: onnxruntime.InferenceSession, provider: str
) -> list[tuple[str, str, str]]:
    """Return where the nodes run that are not on the provider, their names and operators."""
    if provider == CPU:
        return []
    parts = session.get_provider_graph_assignment_info()
    return [
        (part.ep_name, node.name, node.op_type)
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
            mismatch = find_input_mismatch(
                [describe_port(port) for port in session.get_inputs()], inputs
            )
            raise StageError(
                mismatch or f"ONNX Runtime failed: {' '.join(str(error).split())}"
            ) from error

    return predict


def read_graph(source: Path) -> Path | bytes:
    """Return the graph in the form for which its CPU kernels are fast.

    Raises MissingDependencyError without onnx, which is needed to build and never to open.
    """
    if find_spec("onnx") is None:
        raise make_missing_error("onnx", "train")
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
    wanted = make_session_options(1, provider, optimize=True)
    wanted.optimized_model_filepath = str(target)
    start_session(source, wanted, provider)


def get_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)

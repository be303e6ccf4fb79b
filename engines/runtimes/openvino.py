"""OpenVINO on a CPU, in one precision by name: left alone it takes bf16 if the CPU has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from attar.engines.cpu import cpu_flags
from attar.engines.runtimes import child, runtime
from attar.engines.runtimes.runtime import BuildSpec, CpuRuntime, RefusedNode
from attar.models.task import Predict, Predictor
from attar.models.tensors import Array, Arrays, TensorSpec, has_foreign_byte_order
from attar.pipeline.core.errors import StageError, UnsupportedModelError

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""The hint for what is not quantized, by precision."""
NATIVE = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "fp16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""The CPU features of which arithmetic in a precision needs one.

Without them OpenVINO computes in another precision, without a word.
"""
COMPUTED = {"fp16": {"f16"}, "bf16": {"bf16"}, "int8": {"u8", "i8"}}
"""OpenVINO's names of the precisions that some products must be computed in."""
UNKNOWN = re.compile(r"No conversion rule found for operations: (\S+(?:, \S+)*)")
PRODUCTS = {"Convolution", "Deconvolution", "FullyConnected", "MatMul"}
RESULT = "/sink_port_0"
"""What OpenVINO adds to the name of an output."""
SECONDS = 3600
"""To build an engine."""


class OpenVino(CpuRuntime):
    """Engines are compiled models as OpenVINO exports them.

    An engine is one file, which opens several times faster than the graph is compiled. Its head
    names the version and the instruction set that it is for, and OpenVINO refuses it elsewhere.
    """

    title = "OpenVINO"
    suffix = ".blob"
    knows = frozenset({"threads"})
    precisions = frozenset(HINTS)
    tolerances = {"fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}

    def native_content(self, asked: BuildSpec) -> str | None:
        """Return that all of it is: the importer verifies nothing behind the head of a file."""
        return "a compiled model is imported unverified"

    def get_version(self) -> str:
        """Return the version without its build: ``2026.4.1`` of ``2026.4.1-22982-...``."""
        return str(import_openvino().__version__).partition("-")[0]

    def find_refused_nodes(self, source: Path, asked: BuildSpec) -> Sequence[RefusedNode]:
        try:
            with translate_errors(f"OpenVINO cannot read {source}"):
                import_openvino().Core().read_model(str(source))
        except UnsupportedModelError as error:
            if unknown := UNKNOWN.search(str(error)):
                return [
                    RefusedNode(None, parse_operator(name), "OpenVINO does not have it")
                    for name in unknown[1].split(", ")
                ]
            raise
        return []

    def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
        """Raises StageError when OpenVINO crashes, as it does on some graphs in int8."""
        import_openvino()
        request = {"source": str(source), "target": str(target)}
        settings = {"precision": asked.precision, "threads": asked.threads}
        doing = f"building {target.name} with OpenVINO"
        child.call_in_child(compile_engine, {**request, **settings}, doing, SECONDS)

    @contextmanager
    def open(self, files: Mapping[str, Path], asked: BuildSpec) -> Iterator[Predictor]:
        core = import_openvino().Core()
        yield Predictor(
            {name: make_predictor(import_engine(core, file, asked)) for name, file in files.items()}
        )

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        native = NATIVE.get(asked.precision)
        if native is None or native & cpu_flags():
            return None
        return f"this CPU has no {asked.precision} arithmetic ({' or '.join(sorted(native))})"


def import_openvino() -> Any:
    """Return the library. Raises MissingDependencyError."""
    try:
        import openvino
    except ImportError as error:
        raise runtime.make_missing_error("OpenVINO", "openvino") from error
    return openvino


def compile_engine(request: Mapping[str, Any]) -> None:
    """Write an engine, in a process of its own; see ``child``."""
    asked = BuildSpec(request["precision"], request["threads"])
    core = import_openvino().Core()
    with translate_errors(f"OpenVINO cannot compile {request['source']}"):
        compiled = core.compile_model(request["source"], "CPU", make_config(asked))
    check_computed(compiled, asked.precision)
    Path(request["target"]).write_bytes(compiled.export_model().getvalue())


def make_config(asked: BuildSpec) -> dict[str, Any]:
    """Return the settings: one call at a time, on so many threads, in this precision.

    Threads are not bound to cores, and the plugin does not choose the precision.
    """
    return {
        "INFERENCE_PRECISION_HINT": HINTS[asked.precision],
        "INFERENCE_NUM_THREADS": runtime.check_threads(asked.threads),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }


def parse_operator(text: str) -> str:
    """Return the operator: ``Det`` of ``Det-20``, ``my.ops:Strange`` of ``my.ops.Strange``."""
    domain, _, name = re.sub(r"-\d+$", "", text).rpartition(".")
    return f"{domain}:{name}" if domain else name


def check_computed(compiled: Any, precision: str) -> None:
    """Check that OpenVINO computes some product in the precision, whatever the hint was.

    Raises UnsupportedModelError if it computes none.
    """
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = {
        (info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos
    }
    products = {(layer, used) for layer, used in layers if layer in PRODUCTS}
    computed = COMPUTED.get(precision)
    if computed and products and not computed & {used for _, used in products}:
        used = ", ".join(f"{layer} in {used}" for layer, used in sorted(products))
        raise UnsupportedModelError(
            f"OpenVINO computes nothing of this graph in {precision}, but {used}; try precision = "
            "'fp32'"
        )


def import_engine(core: Any, file: Path, asked: BuildSpec) -> Any:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StageError(f"OpenVINO cannot open {file}: {error.strerror}") from error
    with translate_errors(f"OpenVINO cannot open {file}"):
        return core.import_model(content, "CPU", make_config(asked))


def make_predictor(compiled: Any) -> Predict:
    """Return a compiled model as a function of named arrays.

    Calls take turns: all share one request, whose inputs are the arrays themselves.
    """
    tensor = import_openvino().Tensor
    request, turn = compiled.create_infer_request(), Lock()
    inputs = [name_port(port) for port in compiled.inputs]
    outputs = [name_port(port) for port in compiled.outputs]
    known = set(inputs)

    def predict(given: Arrays) -> dict[str, Array]:
        try:
            if given.keys() != known or has_foreign_byte_order(given):
                raise ValueError("inputs")
            with turn:
                for number, name in enumerate(inputs):
                    array = given[name]
                    request.set_input_tensor(
                        number, tensor(array, shared_memory=array.flags.carray)
                    )
                request.infer(None, share_inputs=True, share_outputs=True)
                return {
                    name: request.get_output_tensor(number).data.copy()
                    for number, name in enumerate(outputs)
                }
        except Exception as error:
            specs, message = map(describe_port, compiled.inputs), strip_source_lines(error)
            raise runtime.make_call_error("OpenVINO", list(specs), given, message) from error

    return predict


def describe_port(port: Any) -> TensorSpec:
    """Return an input of a compiled model, which has forgotten the names of its axes."""
    axes = tuple("?" if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape())
    return TensorSpec(
        port.get_element_type().to_dtype().name, axes, high=None, name=name_port(port)
    )


def name_port(port: Any) -> str:
    """Return the graph's name of an input or output.

    Where OpenVINO has removed nodes, a port has the names of the tensors behind them, too.
    """
    return str(port.get_node().get_friendly_name()).removesuffix(RESULT)


@contextmanager
def translate_errors(what: str) -> Iterator[None]:
    """Raise OpenVINO's error about a graph or an engine as UnsupportedModelError."""
    try:
        yield
    except RuntimeError as error:
        raise UnsupportedModelError(f"{what}: {strip_source_lines(error)}") from error


def strip_source_lines(error: Exception) -> str:
    """Return a message without the places in OpenVINO's own source.

    Their lines begin with ``Exception from`` and ``Check``.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    shown = [line for line in lines if line and not line.startswith(("Exception from", "Check "))]
    return " ".join(shown) or str(error)

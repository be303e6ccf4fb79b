"""TensorRT's builder and its ONNX parser, called in a process of their own (see ``child``), for
they may crash.

A request has ``module`` (``tensorrt`` or ``tensorrt_rtx``), ``source`` (an ONNX file), and for an
engine ``target``, ``profile`` and ``options``. Precision is what the graph says: networks are
strongly typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.engines.graphs.inspection import get_attribute, index_constants
from attar.engines.runtimes.tensorrt_engine import create_logger, import_tensorrt
from attar.pipeline.core.errors import StageError, UnsupportedModelError

if TYPE_CHECKING:
    import onnx

MIB = 1 << 20
UNSIGNED = "numbers are uint8, which TensorRT would read as int8; it has symmetric int8 only"
MEANINGS = {
    "shiftIsAllZeros": "its zero point is not 0, and TensorRT has symmetric int8 only",
    "input has type Int32": "it dequantizes int32, which TensorRT cannot; leave the bias in float",
    "Plugin not found": "TensorRT does not know this operator and has no plugin for it",
}
"""What the parser's words mean, where they are an assertion of its code."""


def list_refused_nodes(request: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Node, operator and reason of what cannot be imported, as far as the parser comes: it stops at
    the first.

    Raises StageError for a file that is no graph.
    """
    trt = import_tensorrt(request["module"])
    return ParsedGraph(trt, request["source"]).refused


def build_engine(request: Mapping[str, Any]) -> list[str]:
    """Write the engine; what the builder warned of. Raises UnsupportedModelError with what it said
    when it cannot."""
    trt = import_tensorrt(request["module"])
    made = ParsedGraph(trt, request["source"])
    if made.refused:
        node, operator, why = made.refused[0]
        raise UnsupportedModelError(f"{operator} {node!r}: {why}")
    config = make_config(trt, made.builder, request["options"])
    add_profile(made, config, request["profile"])
    engine = made.builder.build_serialized_network(made.network, config)
    if engine is None:
        raise UnsupportedModelError(
            f"it cannot be built: {'; '.join(made.log.errors) or 'no reason was given'}"
        )
    Path(request["target"]).write_bytes(engine)
    return list(made.log.warnings)


class ParsedGraph:
    """A graph as TensorRT's network. Raises StageError for a file that holds none.

    The parser goes before the network does: freed in another order, they crash.
    """

    def __init__(self, trt: Any, source: str) -> None:
        self.log = create_logger(trt)
        self.builder = trt.Builder(self.log)
        self.network = self.builder.create_network(creation_flags(trt))
        parser = trt.OnnxParser(self.network, self.log)
        parsed = parser.parse_from_file(source)
        self.refused = [
            format_parser_error(parser.get_error(number)) for number in range(parser.num_errors)
        ]
        del parser
        if not self.refused and not (
            parsed and self.network.num_outputs
        ):  # it takes any bytes for an empty graph
            raise StageError(f"{source} is not an ONNX graph that TensorRT can read")
        self.refused = self.refused or list_unsigned_nodes(source)


def creation_flags(trt: Any) -> int:
    """Return the flag of TensorRT 10 for strong types, which later versions have always."""
    if trt.__name__ == "tensorrt" and int(trt.__version__.split(".")[0]) < 11:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def format_parser_error(error: Any) -> tuple[str, str, str]:
    """A parser's error. Where it says only ``false``, its checker's name is all there is: the
    operator is not supported."""
    said = " ".join(str(error.desc()).split()).split("[checkMacros")[0].strip()
    if said in ("false", "") or "UNSUPPORTED" in str(error.code()):
        said = "TensorRT does not support this operator" + (
            "" if said in ("false", "") else f": {said}"
        )
    meaning = next((meaning for word, meaning in MEANINGS.items() if word in said), said)
    return error.node_name() or f"number {error.node()}", error.node_operator() or "graph", meaning


def list_unsigned_nodes(source: str) -> list[tuple[str, str, str]]:
    """Nodes that quantize to unsigned numbers: where the zero point is 0 the parser takes them, and
    half of the range is lost."""
    import onnx

    model = onnx.load(source, load_external_data=False)
    types = {name: tensor.data_type for name, tensor in index_constants(model).items()}
    nodes = [
        node
        for node in model.graph.node
        if find_quantized_type(node, types) == onnx.TensorProto.UINT8
    ]
    return [(node.name or node.output[0], node.op_type, UNSIGNED) for node in nodes]


def find_quantized_type(node: onnx.NodeProto, types: Mapping[str, int]) -> int | None:
    """The element type that a node quantizes to or from; ONNX means uint8 where it says nothing.
    None: it does neither."""
    import onnx

    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    if len(node.input) > 2:
        return types.get(node.input[2])
    if node.op_type == "DequantizeLinear":
        return types.get(node.input[0])
    said: int = get_attribute(node, "output_dtype", 0)
    return said or onnx.TensorProto.UINT8


def make_config(trt: Any, builder: Any, options: Mapping[str, Any]) -> Any:
    """The options under the vendor's names. fp32 is fp32: TensorFloat-32, on by default, has the
    mantissa of fp16."""
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    set_compute_capabilities(trt, config, options.get("compute", ()))
    if (level := options.get("builder_optimization_level")) is not None:
        config.builder_optimization_level = level
    if workspace := options.get("workspace"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace * MIB)
    if hardware := options.get("hardware_compatibility"):
        config.hardware_compatibility_level = getattr(
            trt.HardwareCompatibilityLevel, hardware.upper()
        )
    if options.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    return config


def set_compute_capabilities(trt: Any, config: Any, compute: Sequence[str]) -> None:
    """Compute capabilities such as "8.9". Raises UnsupportedModelError for one that TensorRT-RTX
    does not have."""
    if not compute:
        return
    known = {
        f"{name[2:-1]}.{name[-1]}": each
        for name, each in trt.ComputeCapability.__members__.items()
        if name[:2] == "SM"
    }
    config.num_compute_capabilities = len(compute)
    for number, each in enumerate(compute):
        if each not in known:
            raise UnsupportedModelError(
                f"there are no kernels for compute capability {each}; there are for "
                f"{', '.join(known)}. "
                "Leave it out of `compute`, or take runtime 'tensorrt' for such a GPU"
            )
        config.set_compute_capability(known[each], number)


def add_profile(made: ParsedGraph, config: Any, profile: Mapping[str, Sequence[int]]) -> None:
    """One profile: smallest, usual and largest size of every dynamic axis, for all inputs that have
    it."""
    inputs = [made.network.get_input(number) for number in range(made.network.num_inputs)]
    added = made.builder.create_optimization_profile()
    for each in inputs:
        added.set_shape(each.name, *list_profile_shapes(each, profile))
    config.add_optimization_profile(added)


def list_profile_shapes(tensor: Any, profile: Mapping[str, Sequence[int]]) -> list[tuple[int, ...]]:
    """The three shapes of an input. Raises StageError for a dynamic axis without a profile, or one
    whose sizes do not ascend."""
    sizes = [
        axis_sizes(tensor, number, size, profile) for number, size in enumerate(tuple(tensor.shape))
    ]
    return [tuple(size[which] for size in sizes) for which in range(3)]


def axis_sizes(
    tensor: Any, number: int, size: int, profile: Mapping[str, Sequence[int]]
) -> Sequence[int]:
    if size >= 0:
        return (size, size, size)
    name = tensor.get_dimension_name(number)
    if name not in profile:
        named = f"{name!r}" if name else f"number {number}, which has no name,"
        raise StageError(
            f"axis {named} of input {tensor.name!r} is dynamic and has no profile; give its "
            "smallest, usual and largest size: "
            f"profile = {{ {name or 'NAME'} = [1, 8, 64] }}"
        )
    least, usual, most = profile[name]
    if not 0 <= least <= usual <= most:
        raise StageError(
            f"profile: {name} must be three ascending sizes, smallest, usual and largest, not "
            f"{least}, {usual}, {most}"
        )
    return (least, usual, most)

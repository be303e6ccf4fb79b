"""Questions about an ONNX graph: which nodes, tensors, weights and types it has."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def count_nodes(files: Iterable[Path]) -> dict[str, int]:
    """Return how often each operator occurs in these graphs."""
    import onnx

    operators: Counter[str] = Counter()
    for file in files:
        operators.update(node.op_type for node in onnx.load(file).graph.node)
    return dict(sorted(operators.items()))


def count_parameters(model: onnx.ModelProto) -> int:
    """Return the number of floating-point weights: shapes and scalars do not count."""
    return sum(
        prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.dims and is_float(tensor.data_type)
    )


def is_float(element_type: int) -> bool:
    """Whether an element type of ONNX is one that weights have."""
    import onnx

    return element_type in (
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.DOUBLE,
    )


def list_size_nodes(file: Path) -> set[str]:
    """Return the names of the nodes that compute from the sizes of tensors alone."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    sizes: set[str] = set()
    names: set[str] = set()
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update(node.output)
            continue
        given = set(node.input) - constants
        if node.op_type in ("Shape", "Size") or (given and given <= sizes):
            sizes.update(node.output)
            names.add(node.name)
    return names


def find_node(file: Path, operator: str) -> str | None:
    """Return the name of the first node of an operator, ``Conv`` or ``my.ops:Strange``."""
    import onnx

    for node in onnx.load(file, load_external_data=False).graph.node:
        if operator in (node.op_type, f"{node.domain}:{node.op_type}"):
            return str(node.name)
    return None


def list_training_nodes(file: Path) -> list[str]:
    """Return the nodes in training mode, which one runtime may ignore and another may not.

    They are Dropout whose input ``training_mode`` is true and BatchNormalization whose attribute of
    that name is 1 (ONNX opset 14).
    """
    import onnx

    model = onnx.load(file, load_external_data=False)
    constants = index_constants(model)
    return [
        f"{node.op_type} {node.name}".strip()
        for node in model.graph.node
        if is_in_training(node, constants)
    ]


def is_in_training(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a Dropout or a BatchNormalization in training mode."""
    import onnx

    if node.op_type == "BatchNormalization":
        return bool(get_attribute(node, "training_mode", 0))
    if node.op_type != "Dropout" or len(node.input) < 3 or node.input[2] not in constants:
        return False
    return bool(onnx.numpy_helper.to_array(constants[node.input[2]]))


def get_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute, or the default if the node does not have it."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def index_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return initializers and the results of Constant nodes by name."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = get_attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is not None:
            constants[node.output[0]] = value
    return constants


def index_readers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return the nodes that read each tensor.

    An output of the graph, and what a graph inside a node reads, has a reader more.
    """
    import onnx

    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in model.graph.node:
        for name in (*node.input, *list_subgraph_reads(node)):
            readers[name].append(node)
    for output in model.graph.output:
        readers[output.name].append(onnx.NodeProto())
    return readers


def infer_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return the number of axes of every tensor for which it can be inferred."""
    return {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in infer_values(model)
        if value.type.tensor_type.HasField("shape")
    }


def infer_element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of every tensor for which it is known or can be inferred."""
    types = {value.name: value.type.tensor_type.elem_type for value in infer_values(model)}
    return types | {name: tensor.data_type for name, tensor in index_constants(model).items()}


def infer_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return what ONNX's shape inference finds out about the tensors of a graph."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    return [*graph.value_info, *graph.input, *graph.output]


def list_subgraph_reads(node: onnx.NodeProto) -> list[str]:
    """Return what the graphs inside a node read, such as the branches of an If.

    Tensors that these graphs make themselves are among them.
    """
    names: list[str] = []
    for graph in list_subgraphs(node):
        for inner in graph.node:
            names += [*inner.input, *list_subgraph_reads(inner)]
        names += [output.name for output in graph.output]
    return names


def list_subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs that are attributes of a node."""
    graphs: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        graphs += [attribute.g] if attribute.HasField("g") else []
        graphs += attribute.graphs
    return graphs


def iterate_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for inner in list_subgraphs(node):
            yield from iterate_nodes(inner)


def list_tensor_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of all tensors, those in the graphs inside nodes too."""
    names = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    for node in model.graph.node:
        names.update((*node.input, *node.output, *list_subgraph_reads(node)))
    return names


def make_unused_suffix(model: onnx.ModelProto, suffix: str) -> str:
    """Return the suffix, with underscores before it until no tensor's name ends in it."""
    names = list_tensor_names(model)
    while any(name.endswith(suffix) for name in names):
        suffix = f"_{suffix}"
    return suffix

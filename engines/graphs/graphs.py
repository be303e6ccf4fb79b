"""What every change to an ONNX graph needs: counting, tidying, looking up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from graphlib import TopologicalSorter
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

COPY = ".copy"


def clear_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only its writer understands: source paths and line numbers, doc strings, inner shapes with other axis names.

    So the bytes depend on the graph alone, not on where the network's file lies or how its lines are numbered.
    """
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    graph.ClearField("value_info")
    return model


def count_parameters(model: onnx.ModelProto) -> int:
    """The number of floating-point weights: elements of the initializers that are tensors (shapes and scalars are not)."""
    return sum(product(tensor.dims) for tensor in model.graph.initializer if tensor.dims and is_float(tensor.data_type))


def is_float(element_type: int) -> bool:
    import onnx

    return element_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def product(sizes: Any) -> int:
    result = 1
    for size in sizes:
        result *= int(size)
    return result


def count_nodes(files: Iterable[Path]) -> dict[str, int]:
    """How often each operator occurs in these graphs, by name."""
    import onnx

    return dict(sorted(Counter(node.op_type for file in files for node in onnx.load(file).graph.node).items()))


def find_node(file: Path, operator: str) -> str | None:
    """The name of the first node of an operator, ``Conv`` or ``my.ops:Strange``."""
    import onnx

    nodes = onnx.load(file, load_external_data=False).graph.node
    of = (node.name for node in nodes if operator in (node.op_type, f"{node.domain}:{node.op_type}"))
    return next(of, None)


def list_training_nodes(file: Path) -> list[str]:
    """The nodes that behave as in training: a runtime may leave them out of what it runs, and another may not.

    Dropout whose input ``training_mode`` is true, BatchNormalization whose attribute of that name is 1 (ONNX opset 14).
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    values |= {node.output[0]: get_attribute(node, "value", None) for node in graph.node if node.op_type == "Constant"}
    found = []
    for node in graph.node:
        mode = values.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
        dropping = mode is not None and bool(onnx.numpy_helper.to_array(mode))
        if dropping or (node.op_type == "BatchNormalization" and get_attribute(node, "training_mode", 0)):
            found.append(f"{node.op_type} {node.name}".strip())
    return found


def get_attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def reveal_tensors(file: Path) -> bytes:
    """The graph, serialized, with every tensor that a node gives among its outputs, but no sequence, map or optional."""
    import onnx

    return expose_results(onnx.load(file))


def expose_results(model: onnx.ModelProto) -> bytes:
    """As ``revealed``; the model given is changed."""
    import onnx

    known = {output.name for output in model.graph.output} | find_non_tensors(model)
    results = (name for node in model.graph.node for name in node.output if name and name not in known)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in results)  # the runtime infers their types
    made: bytes = model.SerializeToString()
    return made


def find_non_tensors(model: onnx.ModelProto) -> set[str]:
    """What is known to be a sequence, a map or an optional."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {value.name for value in inferred if value.type.WhichOneof("value") not in (None, "tensor_type")}


def index_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the results of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        value = get_attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is not None:
            found[node.output[0]] = value
    return found


def infer_ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of axes of every tensor for which it can be inferred."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shaped = (value for value in (*graph.value_info, *graph.input, *graph.output) if value.type.tensor_type.HasField("shape"))
    return {value.name: len(value.type.tensor_type.shape.dim) for value in shaped}


def inline_identities(model: onnx.ModelProto) -> None:
    """Turn every Identity of an initializer into an initializer of its own.

    The torchscript exporter shares equal weights in this way, and a bias must be an initializer to be quantized.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Identity" and node.input[0] in initializers:
            copied = model.graph.initializer.add()
            copied.CopyFrom(initializers[node.input[0]])
            copied.name = node.output[0]
            initializers[copied.name] = copied
            model.graph.node.remove(node)


def inline_constants(model: onnx.ModelProto) -> None:
    """Turn every Constant node that holds a tensor into an initializer, as which alone a weight is quantized.

    One that is an answer of the graph stays.
    """
    answers = {output.name for output in model.graph.output}
    for node in list(model.graph.node):
        value = get_attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is not None and node.output[0] not in answers:
            model.graph.initializer.add().CopyFrom(value)
            model.graph.initializer[-1].name = node.output[0]
            model.graph.node.remove(node)


def fold_beta(model: onnx.ModelProto) -> None:
    """Make beta of every Gemm part of its bias, where that is an initializer: ONNX Runtime's quantizer forgets beta there."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        beta = next((each for each in node.attribute if node.op_type == "Gemm" and each.name == "beta"), None)
        if beta is not None and len(node.input) > 2 and node.input[2] in weights:
            node.input[2] = scaled(model, node.input[2], beta.f)
            node.attribute.remove(beta)


def scaled(model: onnx.ModelProto, name: str, factor: float) -> str:
    """The initializer times a number: itself, or a copy where it is read more than once."""
    import onnx

    made = copy_initializer(model, name) if count_reads(model)[name] > 1 else name
    tensor = next(each for each in model.graph.initializer if each.name == made)
    array = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array * array.dtype.type(factor), made))
    return made


def copy_initializer(model: onnx.ModelProto, name: str) -> str:
    """A copy of an initializer, by the name that it gets."""
    taken = count_reads(model).keys() | {tensor.name for tensor in model.graph.initializer}
    made = model.graph.initializer.add()
    made.CopyFrom(next(tensor for tensor in model.graph.initializer if tensor.name == name))
    made.name = next(new for number in count(1) if (new := f"{name}{COPY}{number}") not in taken)
    return str(made.name)


def find_original(name: str, known: Container[str]) -> str:
    """The tensor of which this one is a copy; itself where it is known."""
    return name if name in known else name.rpartition(COPY)[0]


def count_reads(model: onnx.ModelProto) -> Counter[str]:
    """How often each tensor is read, an answer of the graph once more; what nothing reads but a node makes counts 0."""
    found = Counter(output.name for output in model.graph.output)
    for node in model.graph.node:
        found.update((*node.input, *list_subgraph_reads(node)))
        found.update(dict.fromkeys(node.output, 0))
    return found


def prepare_graph(source: Path) -> onnx.ModelProto:
    """The float graph, every node with a name, every weight an initializer, no bias with a factor beside it."""
    import onnx

    model = clear_metadata(onnx.load(source))
    name_nodes(model)
    inline_constants(model)
    inline_identities(model)
    fold_beta(model)
    return model


def name_nodes(model: onnx.ModelProto) -> None:
    """Nodes are left out by name, so each needs one."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def make_unused_suffix(model: onnx.ModelProto, ending: str) -> str:
    """The ending, with underscores before it until no tensor has it: what is called NAME + ENDING is new."""
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output, *list_subgraph_reads(node))}
    names |= {each.name for each in (*graph.input, *graph.initializer)}
    while any(name.endswith(ending) for name in names):
        ending = f"_{ending}"
    return ending


def infer_element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Of every tensor for which it is known or can be inferred, as ``onnx.TensorProto`` counts them."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {name: tensor.data_type for name, tensor in index_constants(model).items()}


def list_subgraph_reads(node: onnx.NodeProto) -> list[str]:
    """What the graphs inside a node, such as the branches of an If, read; names of their own among them."""
    inner = [graph for each in node.attribute for graph in (each.g, *each.graphs) if graph.node or graph.output]
    nodes = [(*each.input, *list_subgraph_reads(each)) for graph in inner for each in graph.node]
    return [*(name for names in nodes for name in names), *(output.name for graph in inner for output in graph.output)]


def sort_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Copies of the nodes, each after those whose results it reads; the quantizer adds its pairs at the end."""
    nodes = list(model.graph.node)
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    sources = [{makers[name] for name in (*node.input, *list_subgraph_reads(node)) if name in makers} for node in nodes]
    order = TopologicalSorter(dict(enumerate(sources))).static_order()
    return [type(nodes[0]).FromString(nodes[number].SerializeToString()) for number in order]

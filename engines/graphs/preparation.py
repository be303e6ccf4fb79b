"""The float graph in the form that every precision starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.graphs.initializers import InitializerCopies

if TYPE_CHECKING:
    import onnx


def prepare_graph(source: Path) -> onnx.ModelProto:
    """Return the float graph: every node has a name, every weight is an initializer.

    No Identity is left between them, and no bias has a factor beside it.
    """
    import onnx

    model = onnx.load(source)
    name_nodes(model)
    model = lift_constants(model)
    fold_gemm_beta(model)
    return clear_metadata(model)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give a name to each node without one: a recipe excludes nodes by name."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def lift_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make initializers of Constant nodes, and remove each Identity, with onnx-ir's passes.

    Only an initializer is quantized as a weight or a bias. The dynamo exporter writes Constant
    nodes, the torchscript exporter an Identity for each weight that equals another.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    lifted = ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(size_limit=0),
        common.IdentityEliminationPass(),
    )
    return ir.to_proto(lifted(ir.from_proto(model)).model)


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put each node behind those whose results it reads, in place, with onnx-ir's pass."""
    import onnx_ir as ir
    from onnx_ir.passes.common import TopologicalSortPass

    model.CopyFrom(ir.to_proto(TopologicalSortPass()(ir.from_proto(model)).model))


def fold_gemm_beta(model: onnx.ModelProto) -> None:
    """Multiply the bias of each Gemm by its beta, in place, where the bias is an initializer.

    ONNX Runtime's quantizer ignores beta there. A bias that is read elsewhere is copied first.
    """
    copies = InitializerCopies(model)
    for node in model.graph.node:
        betas = [field for field in node.attribute if field.name == "beta"]
        if node.op_type != "Gemm" or not betas or len(node.input) < 3:
            continue
        if node.input[2] in copies.initializers:
            node.input[2] = copies.scale(node.input[2], betas[0].f)
            node.attribute.remove(betas[0])


def clear_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove source paths, line numbers, doc strings and the shapes of inner tensors, in place.

    So the bytes depend on the graph alone, not on where the network's file lies. onnx-ir's pass
    leaves those of the model, its inputs and its initializers.
    """
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    graph.ClearField("value_info")
    return model

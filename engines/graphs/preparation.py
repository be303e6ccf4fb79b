"""The form in which every pass here takes a float graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attar.engines.graphs.inspection import iterate_nodes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


def prepare_graph(source: Path) -> onnx.ModelProto:
    """Return the float graph: every node has a name, every weight is an initializer.

    Only an initializer is quantized as a weight or a bias. The dynamo exporter writes Constant
    nodes and a Transpose of a large table that embeds, too; the torchscript exporter writes an
    Identity for each weight that equals another.
    """
    import onnx
    import onnx_ir as ir
    from onnx_ir.passes import common

    proto = onnx.load(source)
    name_nodes(proto)
    model = ir.from_proto(proto)
    common.LiftConstantsToInitializersPass(size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    fold_transposes(model)
    fold_gemm_beta(model)
    prepared = ir.to_proto(model)
    restore_outputs(prepared, [value.name for value in proto.graph.output])
    remove_unread_weights(prepared)
    return clear_metadata(prepared)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give a name of its own to each node without one: a recipe excludes nodes by name."""
    taken = {node.name for node in model.graph.node}
    for number, node in enumerate(model.graph.node):
        if not node.name:
            candidates = (f"{node.op_type}_{own}" for own in count(number))
            node.name = next(name for name in candidates if name not in taken)
            taken.add(node.name)


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put each node behind those whose results it reads, in place, with onnx-ir's pass."""
    import onnx_ir as ir
    from onnx_ir.passes.common import TopologicalSortPass

    model.CopyFrom(ir.to_proto(TopologicalSortPass()(ir.from_proto(model)).model))


def restore_outputs(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Give each output its name again, in place.

    Where two outputs are the same tensor, onnx-ir's pass removes the Identity between them.
    """
    import onnx

    for value, name in zip(model.graph.output, names, strict=True):
        if value.name != name:
            model.graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], name))
            value.name = name


def fold_transposes(model: ir.Model) -> None:
    """Replace each Transpose of an initializer by an initializer, in place."""
    import onnx_ir as ir

    for node in list(model.graph):
        table = (
            node.inputs[0].const_value if node.op_type == "Transpose" and node.inputs[0] else None
        )
        result = node.outputs[0]
        if table is None or result.is_graph_output():
            continue
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        values = np.ascontiguousarray(table.numpy().transpose(order))
        weight = ir.Value(name=result.name, const_value=ir.tensor(values, name=result.name))
        result.replace_all_uses_with(weight)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(weight)


def fold_gemm_beta(model: ir.Model) -> None:
    """Multiply the bias of each Gemm by its beta, in place, where the bias is an initializer.

    ONNX Runtime's quantizer ignores beta there. A bias that is read elsewhere is copied first.
    """
    import onnx_ir as ir

    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if "beta" not in node.attributes or bias is None or bias.const_value is None:
            continue
        values = bias.const_value.numpy()
        if len(bias.uses()) > 1 or bias.is_graph_output():
            bias = ir.Value(name=f"{bias.name}.copy_{node.name}", type=bias.type, shape=bias.shape)
            node.replace_input_with(2, bias)
        beta = values.dtype.type(node.attributes.pop("beta").as_float())
        bias.const_value = ir.tensor(values * beta, name=bias.name)
        model.graph.initializers[str(bias.name)] = bias


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


def remove_unread_weights(model: onnx.ModelProto) -> None:
    """Remove the initializers that no node reads, in place."""
    reads = Counter(name for node in iterate_nodes(model.graph) for name in node.input)
    reads.update(output.name for output in model.graph.output)
    kept = [tensor for tensor in model.graph.initializer if reads[tensor.name]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)

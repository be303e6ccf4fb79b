"""Int8 weights: weights of matrix products are stored in 8 bits by block, activations stay float.

The kernel (com.microsoft.MatMulNBits) rounds each row of the activations by itself, and not by the
range of the whole batch, as dynamic int8 does. Float sums in another order may still tip the
rounding of an activation: 1 of 384 random inputs of the recipe `numbers` got another token in a
batch. There is nothing to calibrate. It is for networks that generate, one token at a time: there a
step is mostly the reading of weights.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attar.engines.graphs.inspection import get_attribute, index_constants
from attar.engines.graphs.int8 import EXCLUDED
from attar.engines.graphs.preparation import clear_metadata, prepare_graph
from attar.engines.graphs.selection import (
    PRODUCTS,
    check_node_names,
    explain_float_product,
    is_plain_gemm,
    make_nothing_error,
)

if TYPE_CHECKING:
    import onnx

BLOCK = 128
"""Weights along the summed axis that share one scale."""
BITS = 8
INT8_ACTIVATIONS = 4
"""The accuracy level of MatMulNBits at which each row of the activations is rounded to int8."""


def write_int8_weights_graph(
    source: Path, target: Path, exclude: Collection[str]
) -> dict[str, Any]:
    """Write the graph. Return how many products are int8, and which stay float.

    Raises UnsupportedModelError if no product has a constant weight, StageError if an excluded node
    does not exist.
    """
    import onnx

    model = prepare_graph(source)
    check_node_names(model, exclude)
    split_gemms(model, index_constants(model), exclude)
    constants = index_constants(model)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    floats = {}
    for node in products:
        reason = EXCLUDED if node.name in exclude else explain_float_product(node, constants)
        if reason:
            floats[node.name] = reason
    inside = [node for node in products if node.name not in floats]
    if not inside:
        raise make_nothing_error(model, PRODUCTS, floats, "'int8' for convolutions, or 'fp32'")
    with keep_logging():
        quantize_weights(model, list(floats))
    onnx.save(clear_metadata(model), target)
    return {"quantized": dict(Counter(node.op_type for node in inside)), "float": floats}


def split_gemms(
    model: onnx.ModelProto, constants: Mapping[str, onnx.TensorProto], exclude: Collection[str]
) -> None:
    """Write each Gemm by a constant weight as MatMul and Add, in place.

    The MatMul has the name of the Gemm. One that is excluded stays as it is.
    """
    import onnx

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if is_plain_gemm(node) else None
        if weight is None or node.name in exclude:
            nodes.append(node)
            continue
        name, product = node.input[1], node.output[0]
        if get_attribute(node, "transB", 0):
            name = f"{node.name}.weight"
            values = np.ascontiguousarray(onnx.numpy_helper.to_array(weight).T)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        if len(node.input) > 2:
            product = f"{node.name}.product"
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], name], [product], node.name))
        if len(node.input) > 2:
            sums = [product, node.input[2]], [node.output[0]]
            nodes.append(onnx.helper.make_node("Add", *sums, f"{node.name}.bias"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def quantize_weights(model: onnx.ModelProto, excluded: Sequence[str]) -> None:
    """Store the weights of all other products in int8, in place."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        model,
        bits=BITS,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=INT8_ACTIVATIONS,
        nodes_to_exclude=list(excluded),
    )
    quantizer.process()
    model.CopyFrom(quantizer.model.model)


@contextmanager
def keep_logging() -> Iterator[None]:
    """Undo what ONNX Runtime's quantizer does to the logging of the whole process.

    Its import sends every library's messages to stderr, and it reports each node.
    """
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)

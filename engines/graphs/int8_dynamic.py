"""Dynamic int8: weights of matrix products are stored in int8, activations rounded at each call.

There is nothing to calibrate: a text's activations are rounded with their own range, in a batch
with the range of the whole batch, so that an answer depends a little on what shares the call. Other
operators stay float, the embeddings too. It is for transformers: ONNX Runtime fuses these products
(6 layers of width 384, 128 tokens: 2.7 times as fast as fp32). Its dynamic convolutions are three
times slower than float ones, so that those are never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from attar.engines.graphs.inspection import index_constants
from attar.engines.graphs.int8 import EXCLUDED
from attar.engines.graphs.preparation import clear_metadata, prepare_graph
from attar.engines.graphs.selection import (
    PRODUCTS,
    check_node_names,
    explain_float_product,
    find_float_nodes,
    make_nothing_error,
)
from attar.pipeline.core.stage import Facts

PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""A mark of ONNX Runtime's own preparation, which fails on transformers. Without the mark each call
advises to run that."""


def write_dynamic_int8_graph(
    source: Path, target: Path, per_channel: bool, exclude: Collection[str], weight_bits: int = 8
) -> Facts:
    """Write the graph. Return how many of each operator are int8, and which products stay float.

    Weights have 8 bits or 7; see ``placement.LEVELS``. Raises UnsupportedModelError if nothing can
    be quantized, StageError if an excluded node does not exist.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = prepare_graph(source)
    check_node_names(model, exclude)
    reasons = find_float_nodes(model) | dict.fromkeys(exclude, EXCLUDED)
    constants = index_constants(model)
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    for node in products:
        if node.name not in reasons and (reason := explain_float_product(node, constants)):
            reasons[node.name] = reason
    inside = [node for node in products if node.name not in reasons]
    floats = {node.name: reasons[node.name] for node in products if node.name in reasons}
    if not inside:
        raise make_nothing_error(model, PRODUCTS, floats, "'int8' for convolutions, or 'fp32'")
    onnx.helper.set_model_props(model, PREPARED)
    quantize_dynamic(
        model,
        target,
        sorted(PRODUCTS),
        per_channel,
        weight_bits < 8,
        QuantType.QInt8,
        nodes_to_exclude=list_excluded_names(list(floats)),
    )
    onnx.save(clear_metadata(onnx.load(target)), target)
    counts = Counter(node.op_type for node in inside)
    return {
        "weight_bits": weight_bits,
        "quantized": dict(sorted(counts.items())),
        "float": floats,
    }


def list_excluded_names(names: Sequence[str]) -> list[str]:
    """Return the names, and those that a Gemm gets when ONNX Runtime has split off its bias."""
    return [*names, *(f"{name}_MatMul" for name in names)]

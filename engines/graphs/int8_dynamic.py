"""Dynamic int8: the weights of matrix products are stored in int8, activations are rounded with the range that each call finds.

There is nothing to calibrate, and a text's answer is rounded with its own range; in a batch with the range of the whole batch,
so that it depends a little on what is asked with it. Other operators stay float, the embeddings too. For transformers: ONNX
Runtime fuses these products (6 layers of width 384, 128 tokens: 2.7 times as fast as fp32), and computes dynamic convolutions
three times slower than float ones, so that those are never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.engines.graphs.graphs import clear_metadata, index_constants, prepare_graph
from attar.engines.graphs.int8 import EXCLUDED
from attar.engines.graphs.selection import check_node_names, find_float_nodes, format_reasons
from attar.pipeline.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx

MULTIPLYING = frozenset({"Gemm", "MatMul"})
PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}
"""What its own preparation writes into a graph: without it each call advises to run that, which fails on transformers."""


def write_dynamic_int8_graph(
    source: Path, target: Path, per_channel: bool, exclude: Collection[str], weight_bits: int = 8
) -> dict[str, Any]:
    """Write the graph. Returns how many of each operator are int8 and which products stay float, and why.

    Weights have 8 bits or 7: see ``placement.LEVELS``.
    Raises UnsupportedModelError if nothing can be quantized, StageError for an excluded node that is not there.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = prepare_graph(source)
    check_node_names(model, exclude)
    kept = find_float_nodes(model) | dict.fromkeys(exclude, EXCLUDED)
    products = [node for node in model.graph.node if node.op_type in MULTIPLYING]
    inside = [node for node in products if has_weight(node, model) and node.name not in kept]
    if not inside:
        present = ", ".join(sorted({node.op_type for node in model.graph.node}))
        raise UnsupportedModelError(
            f"nothing can be quantized: no {' or '.join(sorted(MULTIPLYING))} by a weight is left but those excluded and "
            f"the last layer{format_reasons(kept)}; the graph has {present}. Use precision = 'int8' for convolutions, or 'fp32'"
        )
    floats = [node.name for node in products if node not in inside]
    reasons = {name: kept.get(name, "a product of two activations") for name in floats}
    as_products = [f"{name}_MatMul" for name in floats]  # what ONNX Runtime calls a Gemm once it has split off its bias
    onnx.helper.set_model_props(model, PREPARED)
    quantize_dynamic(
        model, target, sorted(MULTIPLYING), per_channel, weight_bits < 8, QuantType.QInt8, nodes_to_exclude=floats + as_products
    )
    onnx.save(clear_metadata(onnx.load(target)), target)
    counts = Counter(node.op_type for node in inside)
    return {"weight_bits": weight_bits, "quantized": dict(sorted(counts.items())), "float": reasons}


def has_weight(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether it multiplies by a weight; of two activations neither can be stored."""
    return node.input[1] in index_constants(model)

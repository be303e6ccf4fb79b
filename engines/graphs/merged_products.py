"""Products of one tensor by several weights, as the queries, keys and values of an attention are.

They become one product by the weights side by side, and a Split. The sums are those of the products
by themselves. One call reads the tensor once, and once is it rounded where the product is int8.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attar.engines.graphs.inspection import (
    index_constants,
    index_readers,
    make_unused_suffix,
)

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Product:
    """A MatMul by a weight ``(K, N)``, and the Add of its bias ``(N)`` if there is one."""

    nodes: tuple[onnx.NodeProto, ...]
    weight: onnx.TensorProto
    bias: onnx.TensorProto | None

    @property
    def source(self) -> str:
        return str(self.nodes[0].input[0])

    @property
    def result(self) -> str:
        return str(self.nodes[-1].output[0])


def merge_products(model: onnx.ModelProto) -> int:
    """Merge products of the same tensor, in place. Return how many products were merged.

    All weights must be initializers; see `preparation.prepare_graph`. Only products that either all
    have a bias or all have none become one. A weight that is read elsewhere too stays as it is: it
    would be stored twice.
    """
    groups: dict[tuple[str, bool], list[Product]] = defaultdict(list)
    for product in find_products(model):
        groups[product.source, product.bias is None].append(product)
    merged = [group for group in groups.values() if len(group) > 1]
    suffix = make_unused_suffix(model, ".merged")
    for group in merged:
        replace_products(model, group, suffix)
    return sum(len(group) for group in merged)


def find_products(model: onnx.ModelProto) -> list[Product]:
    constants, readers = index_constants(model), index_readers(model)
    found: list[Product] = []
    for node in model.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2 or len(readers[weight.name]) > 1:
            continue
        bias = find_bias(node, weight.dims[1], constants, readers)
        added = (readers[node.output[0]][0],) if bias else ()
        found.append(Product((node, *added), weight, bias))
    return found


def find_bias(
    node: onnx.NodeProto,
    width: int,
    constants: Mapping[str, onnx.TensorProto],
    readers: Mapping[str, Sequence[onnx.NodeProto]],
) -> onnx.TensorProto | None:
    """Return what is added to a product, where nothing else reads the product."""
    following = readers.get(node.output[0], ())
    if len(following) != 1 or following[0].op_type != "Add":
        return None
    others = [name for name in following[0].input if name != node.output[0]]
    bias = constants.get(others[0]) if others else None
    return bias if bias is not None and list(bias.dims) == [width] else None


def replace_products(model: onnx.ModelProto, group: Sequence[Product], suffix: str) -> None:
    """Write one product in the place of a group of them, in place."""
    import onnx

    first = group[0].nodes[0]
    base = f"{first.output[0]}{suffix}"
    make = onnx.helper.make_node
    given: dict[str, npt.NDArray[np.generic]] = {"weight": np.concatenate(read_weights(group), 1)}
    nodes = [make("MatMul", [first.input[0], f"{base}.weight"], [f"{base}.product"], first.name)]
    if biases := read_biases(group):
        given["bias"] = np.concatenate(biases)
        names = [f"{base}.product", f"{base}.bias"]
        nodes.append(make("Add", names, [f"{base}.sum"], f"{base}.add"))
    given["sizes"] = np.array([product.weight.dims[1] for product in group], np.int64)
    results = [product.result for product in group]
    parts = [nodes[-1].output[0], f"{base}.sizes"]
    nodes.append(make("Split", parts, results, f"{base}.split", axis=-1))
    for name, values in given.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{base}.{name}"))
    old = [node for product in group for node in product.nodes]
    place = list(model.graph.node).index(first)
    kept = [node for node in model.graph.node if node not in old]
    before = sum(node not in old for node in model.graph.node[:place])
    del model.graph.node[:]
    model.graph.node.extend([*kept[:before], *nodes, *kept[before:]])


def read_weights(group: Sequence[Product]) -> list[npt.NDArray[np.generic]]:
    import onnx

    return [onnx.numpy_helper.to_array(product.weight) for product in group]


def read_biases(group: Sequence[Product]) -> list[npt.NDArray[np.generic]]:
    import onnx

    return [onnx.numpy_helper.to_array(each.bias) for each in group if each.bias is not None]

"""A Q-DQ graph as a torch module with trainable weights: the very graph that ships.

Libraries that turn ONNX into torch (onnx2torch) have no fake quantization with gradients, and
torch's own quantization-aware training places its pairs by other rules than
``engines.graphs.int8``. So the few operators of exported graphs run here as they stand.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from attar.engines.graphs.inspection import index_constants
from attar.engines.graphs.placement import LEVELS
from attar.engines.graphs.weights import COPY
from attar.pipeline.core.errors import StageError
from attar.stages.optimize.operators import OPERATORS, OperatorCall, fake_quantize, shape_along

if TYPE_CHECKING:
    import onnx

TRAINED = {"Conv": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1)}
"""Which inputs are weights and biases, where they are constants; all other constants stay."""
ORIGINAL = "_quantized"  # what ONNX Runtime's quantizer adds to the name of a weight


class FloatWeight(nn.Module):
    """A weight that stays float."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        return self.value


class QuantizedWeight(FloatWeight):
    """A weight that is rounded by the scale that the quantizer will give it.

    The scale is the largest magnitude, of a channel or of all, over ``levels``. The quantizer takes
    a larger scale where the bias would leave int32; that one is the least here.
    """

    def __init__(self, value: nn.Parameter, scale: Tensor, axis: int, levels: int) -> None:
        super().__init__(value)
        self.levels = levels
        self.axes = [n for n in range(value.ndim) if scale.numel() == 1 or n != axis % value.ndim]
        given = shape_along(scale, axis, value)
        self.least: Tensor
        self.register_buffer(
            "least", given.masked_fill(given <= self.scale(0) * (1 + 1e-6), 0), persistent=False
        )

    def forward(self) -> Tensor:
        return fake_quantize(self.value, self.scale(self.least), -self.levels, self.levels)

    def scale(self, least: Tensor | float) -> Tensor:
        """Return the scale, computed in float64 as by the quantizer; 1 where all is zero."""
        largest = self.value.detach().abs().amax(self.axes, keepdim=True)
        found = (largest.double() / self.levels).float()
        return torch.where(
            largest > 0, torch.maximum(found, torch.as_tensor(least, device=found.device)), 1
        )


class QuantizedBias(FloatWeight):
    """A bias in int32, which is so fine that its first scale stays."""

    def __init__(self, value: nn.Parameter, scale: Tensor) -> None:
        super().__init__(value)
        self.scale: Tensor
        self.register_buffer("scale", scale, persistent=False)

    def forward(self) -> Tensor:
        return fake_quantize(self.value, self.scale, -(2.0**31), 2.0**31)


class QuantizedNetwork(nn.Module):
    """The Q-DQ graph, with weights that start from the float ones.

    ``levels`` is the largest integer of its weights, as in ``QuantizationSpec``. It is called with
    the graph's inputs in their order and returns its outputs in theirs, one tensor or a tuple.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        originals: Mapping[str, npt.NDArray[Any]],
        levels: int = LEVELS[8],
    ) -> None:
        """Raises StageError for an operator that it does not know."""
        super().__init__()
        self.levels = levels
        self.inputs = [value.name for value in graph.graph.input]
        self.outputs = [value.name for value in graph.graph.output]
        self.fixed: dict[str, Tensor] = {}
        self.buffer_names: dict[str, str] = {}
        self.nodes = sort_calls(
            [read_node(node) for node in graph.graph.node if node.op_type != "Constant"]
        )
        self.register_constants(
            {name: convert_tensor(tensor) for name, tensor in index_constants(graph).items()}
        )
        self.parameters_of: dict[str, nn.Parameter] = {}
        self.read: dict[str, int] = {}
        self.weights = nn.ModuleList()
        self.connect_weights({node.outputs[0]: node for node in self.nodes}, originals)
        self.nodes = [node for node in self.nodes if node.outputs[0] not in self.read]

    def register_constants(self, values: Mapping[str, Tensor]) -> None:
        """Hold constants. Shapes and axes stay on the CPU, where they are read as numbers."""
        for number, (name, value) in enumerate(values.items()):
            if value.dtype in (torch.int64, torch.int32):
                self.fixed[name] = value
            else:
                self.buffer_names[name] = f"constant{number}"
                self.register_buffer(self.buffer_names[name], value, persistent=False)

    def connect_weights(
        self, makers: Mapping[str, OperatorCall], originals: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Find what is trained, and put a module where it is read."""
        for node in self.nodes:
            for place in TRAINED.get(node.operator, ()):
                read = node.inputs[place] if place < len(node.inputs) else ""
                maker = makers.get(read)
                source = maker.inputs[0] if maker and maker.operator == "DequantizeLinear" else read
                name = find_original(source.removesuffix(ORIGINAL), originals)
                if read not in self.read and name in originals:
                    value = self.parameters_of.setdefault(
                        name, nn.Parameter(torch.from_numpy(originals[name].copy()))
                    )
                    self.connect_weight(read, self.make_weight(value, maker))
        for read in [
            name for node in self.nodes for name in node.inputs if name in self.buffer_names
        ]:
            if (
                read not in self.read
                and (name := find_original(read, originals)) in self.parameters_of
            ):
                self.connect_weight(
                    read, FloatWeight(self.parameters_of[name])
                )  # an embedding, say, that is tied to what is trained

    def connect_weight(self, read: str, module: FloatWeight) -> None:
        self.read[read] = len(self.weights)
        self.weights.append(module)

    def make_weight(self, value: nn.Parameter, maker: OperatorCall | None) -> FloatWeight:
        if maker is None:
            return FloatWeight(value)
        integers, scale = self.get_constant(maker.inputs[0]), self.get_constant(maker.inputs[1])
        if integers.dtype == torch.int32:
            return QuantizedBias(value, scale)
        return QuantizedWeight(value, scale, maker.attributes.get("axis", 1), self.levels)

    def get_constant(self, name: str) -> Tensor:
        return self.fixed[name] if name in self.fixed else self.get_buffer(self.buffer_names[name])

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = dict(zip(self.inputs, given, strict=True)) | self.fixed
        values |= {
            name: self.get_buffer(attribute) for name, attribute in self.buffer_names.items()
        }
        values |= {name: self.weights[number]() for name, number in self.read.items()}
        for node in self.nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            values[node.outputs[0]] = OPERATORS[node.operator](node, *inputs)
        made = tuple(values[name] for name in self.outputs)
        return made if len(made) > 1 else made[0]

    def export_weights(self) -> dict[str, npt.NDArray[Any]]:
        """Return the weights under their names in the float graph."""
        return {
            name: value.detach().cpu().contiguous().numpy()
            for name, value in self.parameters_of.items()
        }


def find_original(name: str, known: Container[str]) -> str:
    """Return the tensor of which this one is a copy, or itself if it is known."""
    return name if name in known else name.rpartition(COPY)[0]


def convert_tensor(tensor: onnx.TensorProto) -> Tensor:
    import onnx

    return torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())


def read_node(node: onnx.NodeProto) -> OperatorCall:
    """Return a node. Raises StageError for an unknown operator or a second result."""
    import onnx

    results = [name for name in node.output if name]
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx") or len(results) > 1:
        what = (
            f"{len(results)} results of {node.op_type}"
            if len(results) > 1
            else f"the operator {node.op_type}"
        )
        raise StageError(
            f"the graph cannot be tuned: {what} (node {node.name!r}) is not known there; set "
            "tuning_epochs = 0, or add it to "
            f"stages/optimize/operators.py. Known: {', '.join(sorted(OPERATORS))}"
        )
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return OperatorCall(node.name, node.op_type, tuple(node.input), tuple(results), attributes)


def sort_calls(nodes: list[OperatorCall]) -> list[OperatorCall]:
    """Return each call behind those whose results it reads."""
    makers = {node.outputs[0]: node for node in nodes}
    reads = {
        name: [each for each in node.inputs if each in makers] for name, node in makers.items()
    }
    return [makers[name] for name in TopologicalSorter(reads).static_order()]

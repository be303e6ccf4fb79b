"""Widening: int8 convolutions of few channels get more, of zeros, because ONNX Runtime's fast kernel for x86 starts at 16.

That kernel takes at least 16 output channels, and only multiples of 4 (AVX512) or 8 (AVX2) of input and output channels; what
it does not take is unrolled and multiplied as a matrix (``MlasConvSymPackWSize`` in its mlas/lib/convsym.cpp). A channel of
zeros that is read with weights of zero changes no answer, not even in the last bit. Measured on AVX512-VNNI, one thread, ONNX
Runtime 1.32: a residual network whose first stage has 12 channels takes 0.83 times as long at batch 1, 0.73 times at batch 32.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attar.engines.cpu import X86
from attar.engines.graphs.graphs import get_attribute, list_subgraph_reads

if TYPE_CHECKING:
    import onnx

LEAST, STEP, ALIGNED = 16, 8, 4
KEEPING = frozenset({"QuantizeLinear", "DequantizeLinear", "Relu", "Clip", "MaxPool", "AveragePool", "Add"})
"""What gives as many channels as it reads; its further inputs, such as scales and bounds, are one number for all of them."""


def pad_channels(source: Path) -> Path | bytes:
    """The graph with wider convolutions, serialized; the file itself where there is nothing to widen."""
    import onnx

    if platform.machine() not in X86:
        return source
    model = onnx.load(source)
    graph = ChannelGraph.from_model(model)
    groups = [group for group in graph.find_groups() if graph.gains_speed(group)]
    for group in groups:
        graph.pad_group(group)
    if not groups:
        return source
    model.graph.ClearField("value_info")  # ONNX Runtime infers the new shapes
    made: bytes = model.SerializeToString()
    return made


def round_up_channels(channels: int) -> int:
    """So many channels it takes for the kernel; the same number where it takes these."""
    return channels if channels >= LEAST and channels % ALIGNED == 0 else max(LEAST, -(-channels // STEP) * STEP)


@dataclass
class ChannelGroup:
    """Tensors that must have the same channels, the convolutions that make them and those that read them."""

    tensors: set[str]
    makers: Sequence[onnx.NodeProto]
    readers: Sequence[onnx.NodeProto]
    within: Sequence[onnx.NodeProto]
    """What keeps the channels."""


@dataclass(frozen=True)
class ChannelGraph:
    """A graph and who makes and reads every tensor in it."""

    constants: Mapping[str, onnx.TensorProto]
    makers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, list[onnx.NodeProto]]
    ends: frozenset[str]
    """Inputs and outputs of the whole graph."""

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> ChannelGraph:
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in filter(None, (*node.input, *list_subgraph_reads(node))):
                readers[name].append(node)
        makers = {name: node for node in model.graph.node for name in node.output}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        return cls(constants, makers, readers, frozenset(each.name for each in (*model.graph.input, *model.graph.output)))

    def find_groups(self) -> list[ChannelGroup]:
        """All whose channels are free to be more."""
        found: list[ChannelGroup] = []
        seen: set[str] = set()
        for name, node in self.makers.items():
            if node.op_type == "Conv" and name not in seen:
                group = self.grow_group(name)
                seen |= group.tensors
                found += [group] if self.is_free(group) else []
        return found

    def grow_group(self, start: str) -> ChannelGroup:
        """From one tensor through everything that keeps the channels."""
        tensors, waiting = {start}, [start]
        while waiting:
            for node in self.list_neighbours(waiting.pop()):
                beside = {*list_data_inputs(node), *node.output} if node.op_type in KEEPING else set()
                waiting += beside - tensors
                tensors |= beside
        names = sorted(tensors)
        makers = [self.makers[name] for name in names if name in self.makers]
        readers = [node for name in names for node in self.readers.get(name, [])]
        within = [node for node in makers if node.op_type in KEEPING]
        return ChannelGroup(tensors, drop_keeping_nodes(makers), drop_keeping_nodes(readers), within)

    def list_neighbours(self, name: str) -> list[onnx.NodeProto]:
        made = [self.makers[name]] if name in self.makers else []
        return [*made, *self.readers.get(name, [])]

    def is_free(self, group: ChannelGroup) -> bool:
        """Whether convolutions alone make and read them, each with weights of its own, and nothing else knows their number."""
        closed = group.tensors <= self.makers.keys() and not group.tensors & self.ends
        alike = not any(
            self.may_have_channels(name)
            for node in group.within
            for name in filter(None, node.input)
            if name not in group.tensors
        )
        plain = (
            closed
            and alike
            and bool(group.readers)
            and all(self.is_plain_convolution(n, group) for n in (*group.makers, *group.readers))
        )
        return (
            plain and len({self.count_channels(self.list_constants(node, 1)) for node in group.makers}) == 1
        )  # an Add may repeat one channel

    def is_plain_convolution(self, node: onnx.NodeProto, group: ChannelGroup) -> bool:
        if node.op_type != "Conv" or get_attribute(node, "group", 1) != 1 or group.tensors & set(node.input[1:]):
            return False
        parts = [name for place in (1, 2) for name in self.list_constants(node, place) if self.may_have_channels(name)]
        alone = all(len(self.readers[name]) == 1 for name in (*parts, *filter(None, node.input[1:])))
        return alone and all(name in self.constants for name in parts) and self.has_zero_points(node)

    def has_zero_points(self, node: onnx.NodeProto) -> bool:
        """Whether zeros behind its weight and bias stand for zero: their zero points, if any, are all 0."""
        import onnx

        points = [name for place in (1, 2) for name in self.list_constants(node, place)[2:]]
        return all(name in self.constants and not onnx.numpy_helper.to_array(self.constants[name]).any() for name in points)

    def list_constants(self, node: onnx.NodeProto, place: int) -> list[str]:
        """The constants of a weight (1) or a bias (2): itself, or what it is dequantized from."""
        if len(node.input) <= place or not node.input[place]:
            return []
        maker = self.makers.get(node.input[place])
        return [node.input[place]] if maker is None else list(maker.input) if maker.op_type == "DequantizeLinear" else [""]

    def may_have_channels(self, name: str) -> bool:
        """Whether it may have an entry for every channel; one number may be shared."""
        return name not in self.constants or bool(self.constants[name].dims)

    def gains_speed(self, group: ChannelGroup) -> bool:
        """Whether one of its makers computes in int8 and has channels that the kernel does not take."""
        weights = [self.list_constants(node, 1) for node in group.makers]
        return any(len(parts) > 1 for parts in weights) and all(
            round_up_channels(n) != n for n in map(self.count_channels, weights)
        )

    def count_channels(self, weight: list[str]) -> int:
        return int(self.constants[weight[0]].dims[0])

    def pad_group(self, group: ChannelGroup) -> None:
        for node in group.makers:
            for name in [*self.list_constants(node, 1), *self.list_constants(node, 2)]:
                self.pad_constant(name, 0)
        for node in group.readers:
            self.pad_constant(self.list_constants(node, 1)[0], 1)

    def pad_constant(self, name: str, axis: int) -> None:
        """Zeros behind, along one axis; behind scales the last of them, as none may be zero. One scale for all stays one."""
        import numpy as np
        import onnx

        tensor = self.constants[name]
        dequantizing = [node for node in self.readers[name] if node.op_type == "DequantizeLinear" and name in node.input[1:]]
        array = onnx.numpy_helper.to_array(tensor)
        if not tensor.dims or (dequantizing and array.size == 1):
            return
        more = [(0, round_up_channels(array.shape[axis]) - array.shape[axis] if n == axis else 0) for n in range(array.ndim)]
        scale = any(node.input[1] == name for node in dequantizing)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.pad(array, more, "edge" if scale else "constant"), name))


def drop_keeping_nodes(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    return [node for node in nodes if node.op_type not in KEEPING]


def list_data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs whose channels it keeps."""
    return list(node.input[: 2 if node.op_type == "Add" else 1])

"""The graphs `start` and `step` of a network that generates, to be assembled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from attar.pipeline.core.errors import UnsupportedModelError

if TYPE_CHECKING:
    import onnx

EMPTY: Mapping[str, str] = MappingProxyType({})
START_PREFIX, STEP_PREFIX = "start/", "step/"


@dataclass(frozen=True)
class SequenceParts:
    """Both graphs, with names that cannot meet."""

    start: onnx.ModelProto
    step: onnx.ModelProto
    memory: list[str]
    states: list[str]

    @property
    def tensors(self) -> list[str]:
        return [*self.memory, *self.states]

    @classmethod
    def load(cls, start: Path, step: Path) -> SequenceParts:
        import onnx

        models = onnx.load(start), onnx.load(step)
        outputs = [value.name for value in models[0].graph.output]
        memory = [name for name in outputs if name.startswith("memory_")]
        states = [name for name in outputs if name.startswith("state_")]
        reads = {value.name for value in models[1].graph.input}
        gives = {value.name for value in models[1].graph.output}
        # An exporter leaves out inputs that the network does not use.
        unknown = reads - {"token", "place", *memory, *states}
        missing = {"logits", *(f"next_{name}" for name in states)} - gives
        if unknown or missing:
            raise UnsupportedModelError(
                f"the step graph reads {sorted(unknown) or 'nothing'} that the start graph does "
                f"not return, and lacks the outputs {sorted(missing) or 'none'}; export both from "
                "one network"
            )
        rename_tensors(models[0].graph, START_PREFIX, ())
        rename_tensors(models[1].graph, STEP_PREFIX, reads | gives)
        return cls(*models, memory, states)


def rename_tensors(
    graph: onnx.GraphProto, prefix: str, kept: Collection[str], public: Mapping[str, str] = EMPTY
) -> None:
    """Give every node and tensor a prefix, except the kept ones, and the public ones their names.

    The branches and loops of a node read the tensors around them, so theirs are renamed too.
    """

    def rename(name: str) -> str:
        return public.get(name) or (name if not name or name in kept else prefix + name)

    for node in graph.node:
        node.name = node.name and prefix + node.name  # names of nodes may be empty, not equal
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename_tensors(attribute.g, prefix, kept, public)
    for value in [*graph.initializer, *graph.input, *graph.output]:
        value.name = rename(value.name)


def make_value(name: str, dtype: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DataType.Value(dtype), shape)

"""Export of a network that generates: its graphs `start` and `step`, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.parity import choose_traced_sizes
from attar.engines.runtimes.torch_sequences import SequenceNetwork, require_sequence_network
from attar.models.generation import START, STEP
from attar.models.task import Task
from attar.pipeline.core.errors import StageError

if TYPE_CHECKING:
    import onnx

TRACED_PAST = 3
"""Tokens in the state of the example that an exporter traces; a real state begins empty."""
PAST, PRESENT = "past", "present"
"""The axis of a state that grows, before a step and after it. They are two names because they are
two sizes: ONNX Runtime lets tensors of one declared shape share a buffer."""
Axes = tuple[int | str, ...]


class StartModule(nn.Module):
    """``start`` with flat outputs, as an exporter wants them."""

    def __init__(self, network: SequenceNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        memory, state = self.network.start(*inputs)
        return (*memory, *state)


class StepModule(nn.Module):
    """``step`` with flat inputs and outputs: token, place, memory, state to logits and state."""

    def __init__(self, network: SequenceNetwork, memory: int) -> None:
        super().__init__()
        self.network, self.memory = network, memory
        self.eval()

    def forward(self, token: Tensor, place: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        memory, state = tensors[: self.memory], tensors[self.memory :]
        logits, state = self.network.step(token, place, memory, state)
        return (logits, *state)


@dataclass(frozen=True)
class GraphForm:
    """A module to export: examples of its inputs, and the names and axes of inputs and outputs."""

    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: Mapping[str, Axes]
    outputs: Mapping[str, Axes]


def describe_graphs(network: nn.Module, task: Task) -> dict[str, GraphForm]:
    """Return the forms of `start` and `step`.

    Which axes are dynamic is found by calling the network with one size changed at a time, to its
    neighbour and to both ends of its range.
    """
    sequence = require_sequence_network(network)
    probe = SizeProbe(sequence, task)
    memory, state = probe.call(probe.sizes)
    axes = probe.find_axes()
    names = [f"memory_{number}" for number in range(len(memory))]
    names += [f"state_{number}" for number in range(len(state))]
    starts = dict(zip(names, axes, strict=True))
    states = {name: name_past(axes) for name, axes in starts.items() if name.startswith("state_")}
    steps: dict[str, Axes] = {"token": ("batch",), "place": (1,)}
    steps |= {name: axes for name, axes in starts.items() if name.startswith("memory_")} | states
    results: dict[str, Axes] = {"logits": ("batch", "tokens")} | {
        f"next_{name}": tuple(PRESENT if axis == PAST else axis for axis in axes)
        for name, axes in states.items()
    }
    inputs = {name: tensor.axes for name, tensor in task.inputs.items()}
    return {
        START: GraphForm(StartModule(sequence), probe.make_inputs(probe.sizes), inputs, starts),
        STEP: GraphForm(
            StepModule(sequence, len(memory)),
            probe.make_step_example(memory, state),
            steps,
            results,
        ),
    }


class SizeProbe:
    """Calls ``start`` at several sizes, to see which axes of its outputs follow which size."""

    def __init__(self, network: SequenceNetwork, task: Task) -> None:
        self.network, self.task = network, task
        self.sizes = choose_traced_sizes(task)

    def make_inputs(self, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        example = self.task.example(np.random.default_rng(0), **sizes)
        return tuple(torch.from_numpy(example[name]) for name in self.task.inputs)

    def call(self, sizes: Mapping[str, int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        with torch.no_grad():
            return self.network.start(*self.make_inputs(sizes))

    def find_axes(self) -> list[Axes]:
        """Return the axes of memory and state: names where they follow a size, else numbers.

        One that is as large as an axis of the inputs in every call has its name. Others, such as
        the positions that a strided convolution leaves, have names of their own.
        """
        asked = [self.sizes, *self.list_other_sizes()]
        calls = [[tensor.shape for tensor in chain(*self.call(sizes))] for sizes in asked]
        names = {tuple(sizes[axis] for sizes in asked): axis for axis in self.sizes}

        def name_axis(seen: tuple[int, ...]) -> int | str:
            is_fixed = len(set(seen)) == 1
            return seen[0] if is_fixed else names.setdefault(seen, f"inner_{len(names)}")

        return [
            tuple(name_axis(seen) for seen in zip(*shapes, strict=True))
            for shapes in zip(*calls, strict=True)
        ]

    def list_other_sizes(self) -> Iterator[dict[str, int]]:
        """Yield sizes of which one is changed."""
        for axis, size in self.sizes.items():
            low, high = self.task.ranges[axis]
            beside = size + 1 if size < high else max(low, size - 1)
            for other in (beside, low, high):
                yield {**self.sizes, axis: other}

    def make_step_example(
        self, memory: Sequence[Tensor], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return the inputs of the step after a few tokens."""
        samples = memory[0].shape[0] if memory else state[0].shape[0]
        token = torch.ones(samples, dtype=torch.long)
        with torch.no_grad():
            for place in range(TRACED_PAST):
                _, state = self.network.step(token, torch.tensor([place]), tuple(memory), state)
        tensors = (token, torch.tensor([TRACED_PAST]), *memory, *state)
        return tuple(tensor.contiguous() for tensor in tensors)


def name_past(axes: Axes) -> Axes:
    """Return the axes of a state with a name for the one that is empty at first and then grows."""
    return tuple(PAST if axis == 0 else axis for axis in axes)


def restore_inputs(model: onnx.ModelProto, form: GraphForm) -> None:
    """Declare the inputs that an exporter left out because the network does not use them.

    A recurrent network needs no place, and is given one all the same.
    """
    import onnx

    present = {value.name for value in model.graph.input}
    for (name, axes), tensor in zip(form.inputs.items(), form.example, strict=True):
        if name not in present:
            dtype = onnx.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
            value = onnx.helper.make_tensor_value_info(name, dtype, list(axes))
            model.graph.input.append(value)


def name_axes(model: onnx.ModelProto, form: GraphForm) -> None:
    """Give the graph's inputs and outputs the names of their dynamic axes.

    Raises StageError if an exporter took a dynamic axis for a constant.
    """
    axes_by_name = {**form.inputs, **form.outputs}
    for value in [*model.graph.input, *model.graph.output]:
        for axis, dim in zip(
            axes_by_name[value.name], value.type.tensor_type.shape.dim, strict=False
        ):
            if isinstance(axis, int):
                continue
            if dim.HasField("dim_value") and value.name in form.inputs:
                raise StageError(
                    f"axis {axis!r} of {value.name!r} must be dynamic, but the exporter froze it "
                    f"at {dim.dim_value}; does the network read a size as a number? Try the other "
                    "exporter"
                )
            dim.dim_param = axis


def export_form(form: GraphForm, file: Path, opset: int, exporter: str) -> None:
    """Write one graph."""
    EXPORTERS[exporter](form, file, opset)


def export_by_dynamo(form: GraphForm, file: Path, opset: int) -> None:
    shapes = [select_dynamic(axes) for axes in form.inputs.values()]
    fixed = 2 if "token" in form.inputs else 0
    torch.onnx.export(
        form.module,
        form.example,
        file,
        dynamo=True,
        opset_version=opset,
        external_data=False,
        verbose=False,
        input_names=list(form.inputs),
        output_names=list(form.outputs),
        dynamic_shapes=cast("tuple[object, ...]", (*shapes[:fixed], tuple(shapes[fixed:]))),
    )


def export_by_torchscript(form: GraphForm, file: Path, opset: int) -> None:
    torch.onnx.export(
        form.module,
        form.example,
        file,
        dynamo=False,
        opset_version=opset,
        verbose=False,
        input_names=list(form.inputs),
        output_names=list(form.outputs),
        dynamic_axes={
            name: select_dynamic(axes)
            for name, axes in (*form.inputs.items(), *form.outputs.items())
        },
    )


EXPORTERS: Mapping[str, Callable[[GraphForm, Path, int], None]] = {
    "dynamo": export_by_dynamo,
    "torchscript": export_by_torchscript,
}


def select_dynamic(axes: Axes) -> dict[int, str]:
    return {place: axis for place, axis in enumerate(axes) if isinstance(axis, str)}

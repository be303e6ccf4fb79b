"""Networks that generate tokens, in PyTorch: opened as predictors, and checked against their task.

Such a network has ``forward(*inputs, prefix)``, ``start(*inputs)`` and ``step(token, place, memory,
state)``; see ``models.generation`` and, for an example, ``models.networks.translation``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.parity import choose_traced_sizes, draw_padded_inputs, list_paddings
from attar.models.generation import (
    FOLLOW,
    MODEL,
    PATH,
    START,
    STEP,
    Decoding,
    Floats,
    Integers,
    Vocabulary,
    follow,
    pad_path,
    shift_path,
)
from attar.models.lengths import trim_inputs
from attar.models.task import Array, Arrays, Predict, Task
from attar.pipeline.core.errors import StageError

Tensors = tuple[Tensor, ...]
METHODS = ("forward", "start", "step")
TOLERANCE = 1e-3
"""How far ``step`` may be from ``forward``, relative to the largest logit's magnitude (or 1)."""


class SequenceNetwork(Protocol):
    """What a task with an output of tokens asks of its networks."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Read the inputs and a prefix ``(B, T)``. Return logits ``(B, T, size)``."""

    def start(self, *inputs: Tensor) -> tuple[Tensors, Tensors]:
        """Return memory and state before the first token, each with the batch as first axis."""

    def step(
        self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors
    ) -> tuple[Tensor, Tensors]:
        """Read ``token`` ``(B)`` at ``place`` ``(1)``.

        Return logits ``(B, size)`` and the state after it.
        """


def require_sequence_network(module: nn.Module) -> SequenceNetwork:
    """Return the module itself. Raises StageError if it lacks a method."""
    missing = [name for name in METHODS if not callable(getattr(module, name, None))]
    if missing:
        raise StageError(
            f"{type(module).__name__} has no method {missing[0]!r}, and its task has an output of "
            "tokens; a network that generates has forward(*inputs, prefix), start(*inputs) and "
            "step(token, place, memory, state)"
        )
    return cast(SequenceNetwork, module)


def open_graphs(module: nn.Module, task: Task, decoding: Decoding) -> dict[str, Predict]:
    """Return the network's graphs.

    ``model`` generates, ``follow`` reads a path, ``start`` and ``step`` are as exported.
    """
    network = require_sequence_network(module)
    module.eval()
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))

    def give(inputs: Arrays) -> list[Tensor]:
        return [
            torch.from_numpy(np.ascontiguousarray(inputs[name])).to(device) for name in task.inputs
        ]

    def generate(inputs: Arrays) -> dict[str, Array]:
        limits = torch.from_numpy(decoding.limit_lengths(inputs)).to(device)
        tokens = generate_tokens(network, give(inputs), limits, decoding.vocabulary)
        return {
            decoding.output: pad_path(
                tokens.cpu().numpy(), decoding.vocabulary.pad, decoding.longest
            )
        }

    def follow_path(inputs: Arrays) -> dict[str, Array]:
        prefix = shift_path(cast(Integers, inputs[PATH]), decoding.vocabulary)
        logits = network(*give(inputs), torch.from_numpy(prefix).to(device))
        return {decoding.output: logits.float().cpu().numpy()}

    def start(inputs: Arrays) -> dict[str, Array]:
        memory, state = network.start(*give(inputs))
        return name_tensors("memory", memory) | name_tensors("state", state)

    def step(inputs: Arrays) -> dict[str, Array]:
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for name, array in inputs.items()
        }
        memory, state = collect_tensors("memory", tensors), collect_tensors("state", tensors)
        logits, state = network.step(tensors["token"], tensors["place"], memory, state)
        return {"logits": logits.float().cpu().numpy()} | name_tensors("next_state", state)

    graphs = {MODEL: generate, FOLLOW: follow_path, START: start, STEP: step}
    return {name: without_gradients(graph) for name, graph in graphs.items()}


def without_gradients(graph: Predict) -> Predict:
    def predict(inputs: Arrays) -> dict[str, Array]:
        with torch.inference_mode():
            return graph(inputs)

    return predict


def generate_tokens(
    network: SequenceNetwork, inputs: list[Tensor], limits: Tensor, words: Vocabulary
) -> Tensor:
    """As ``generation.generate_greedily``, on the network's device."""
    memory, state = network.start(*inputs)
    token = torch.full_like(limits, words.begin)
    done = torch.zeros_like(limits, dtype=torch.bool)
    steps: list[Tensor] = []
    while not bool(done.all()):
        place = torch.full((1,), len(steps), dtype=torch.long, device=token.device)
        logits, state = network.step(token, place, memory, state)
        token = torch.where(done, words.pad, logits.argmax(1))
        steps.append(token)
        done = done | (token == words.end) | (len(steps) >= limits)
    return torch.stack(steps, 1)


def name_tensors(prefix: str, tensors: Tensors) -> dict[str, Array]:
    return {f"{prefix}_{number}": to_array(tensor) for number, tensor in enumerate(tensors)}


def to_array(tensor: Tensor) -> Array:
    """Return the array of a tensor; numpy has no bfloat16, so floats become float32."""
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    return array


def collect_tensors(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the numbered tensors of this prefix, in their order."""
    count = sum(name.startswith(f"{prefix}_") for name in tensors)
    return tuple(tensors[f"{prefix}_{number}"] for number in range(count))


def check_sequence_network(module: nn.Module, task: Task, decoding: Decoding) -> None:
    """Follow random paths by ``forward`` and by ``step``. Raises StageError if they differ.

    A network differs if its places are off by one, if one form alone reads padding, or if its state
    leaks from another sample or from the sentence before, for which a second one is followed. That
    one is of the largest promised sizes, which a table of positions may not have. Neither form may
    read padding.
    """
    graphs, traced = open_graphs(module, task, decoding), choose_traced_sizes(task)
    largest = {axis: task.ranges[axis][1] for axis in traced}
    for sentence, sizes in enumerate((traced, largest)):
        generator = np.random.default_rng(sentence)
        inputs = draw_padded_inputs(task, generator, {**sizes, "batch": 2})
        check_forms(graphs, task, decoding, inputs, generator)
    check_first_axes(graphs, task)
    check_padding(graphs, task, decoding)


def check_forms(
    graphs: Mapping[str, Predict],
    task: Task,
    decoding: Decoding,
    inputs: Arrays,
    generator: np.random.Generator,
) -> None:
    """Follow one random path of the longest length for two samples. Raises StageError."""
    words = decoding.vocabulary
    path = generator.integers(0, words.size, (2, decoding.longest))

    def follow_path(chosen: Mapping[str, Predict]) -> list[Floats]:
        return list(follow(chosen, inputs, path, decoding))

    whole = call_named(graphs, (FOLLOW,), follow_path, task)
    steps = call_named(graphs, (START, STEP), follow_path, task)
    if len(whole) != path.shape[1] or whole[0].shape != (2, words.size):
        raise StageError(
            f"the network's logits have shape {(2, len(whole), *whole[0].shape[1:])} for a prefix "
            f"of shape {path.shape}; its task promises (batch, tokens, {words.size})"
        )
    difference = max(float(np.abs(a - b).max()) for a, b in zip(whole, steps, strict=True))
    allowed = TOLERANCE * max(1.0, *(float(np.abs(a).max()) for a in whole))
    if not difference <= allowed:
        raise StageError(
            f"the network's forward and its step give logits that differ by {difference:.2g} for "
            f"the same tokens, allowed {allowed:.2g}; step must give for each token what forward "
            "gives for it in a whole prefix (look at places, state, mask)"
        )


def check_first_axes(graphs: Mapping[str, Predict], task: Task) -> None:
    """Raises StageError unless the batch is the first axis of memory and state.

    A beam selects and repeats samples by it, and would silently take a layer for a sample.
    """
    for samples in (2, 3):
        inputs = task.example(
            np.random.default_rng(0), **{**choose_traced_sizes(task), "batch": samples}
        )
        for name, array in graphs[START](inputs).items():
            if array.shape[:1] != (samples,):
                raise StageError(
                    f"the network's start gives {name} of shape {array.shape} for {samples} "
                    "samples; the first axis of memory and state must be the batch (move layers "
                    "behind it, and repeat for each sample what all share)"
                )


def check_padding(graphs: Mapping[str, Predict], task: Task, decoding: Decoding) -> None:
    """Follow a path of two samples with and without a column of padding. Raises StageError."""
    generator = np.random.default_rng(0)
    padded = draw_padded_inputs(task, generator, {**choose_traced_sizes(task), "batch": 2})
    for name, pad in list_paddings(task, padded).items():
        padded[name][:, -1] = pad
    words = decoding.vocabulary
    path = generator.integers(0, words.size, (2, min(4, decoding.longest)))
    logits = [
        np.stack(list(follow({FOLLOW: graphs[FOLLOW]}, inputs, path, decoding)))
        for inputs in (trim_inputs(task, padded), padded)
    ]
    difference = float(np.abs(logits[0] - logits[1]).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(logits[0]).max()))
    if not difference <= allowed:
        raise StageError(
            f"the network reads padding: logits differ by {difference:.2g} with one more column of "
            f"it, allowed {allowed:.2g}, so an answer would depend on the other samples of its "
            "batch; mask the padding of the inputs"
        )


def call_named(
    graphs: Mapping[str, Predict],
    names: tuple[str, ...],
    call: Callable[[Mapping[str, Predict]], list[Floats]],
    task: Task,
) -> list[Floats]:
    """Call with some of the graphs. Raises StageError for whatever the network raises."""
    try:
        return call({name: graphs[name] for name in names})
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        methods = " and ".join("forward" if name == FOLLOW else name for name in names)
        raise StageError(
            f"the network's {methods} cannot read inputs of {type(task).__name__}: {error}"
        ) from error

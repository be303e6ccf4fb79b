"""Hooks that read the output or the input of a layer in each call of its network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attar.pipeline.core.errors import StageError, suggest_name


class LayerHook:
    """Reads one layer's output or, with ``before``, its input. The network stays unchanged.

    If the output is a tuple or a list, its first entry is read: the states, where a layer also
    returns attention weights or a cache.
    """

    def __init__(
        self, layer: nn.Module, description: str = "a hooked layer", *, before: bool = False
    ) -> None:
        """``description``: the layer's name in error messages."""
        self._description = description
        self._tensor_or_problem: Tensor | str = "was not called"
        if before:
            layer.register_forward_pre_hook(self._record_input)
        else:
            layer.register_forward_hook(self._record_output)

    def __call__(self) -> Tensor:
        """Return the tensor of the network's last call, as float32.

        Raises StageError if there is none.
        """
        if isinstance(self._tensor_or_problem, str):
            raise StageError(f"{self._description} {self._tensor_or_problem}; name another one")
        return self._tensor_or_problem.float()

    def _record_input(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        if isinstance(first, Tensor):
            self._tensor_or_problem = first
        else:
            self._tensor_or_problem = "gets no tensor as its first input"

    def _record_output(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor):
            self._tensor_or_problem = first
        else:
            self._tensor_or_problem = f"answers {describe_answer(output)}, not a tensor first"


class Projections:
    """Reads queries, keys and values next to each other, ``(B, S, 3 width)``.

    One layer computes all, or each of three layers computes one.
    """

    def __init__(self, module: nn.Module, names: str | Sequence[str], whose: str) -> None:
        layers = [names] if isinstance(names, str) else names
        self._description = f"the {whose}'s {', '.join(layers)}"
        self._hooks = [hook_layer(module, name, whose) for name in layers]
        self._input = hook_layer(module, layers[0], whose, before=True)

    def __call__(self) -> Tensor:
        """Return them for the network's last call.

        Raises StageError unless they are three projections of one width.
        """
        parts = [hook() for hook in self._hooks]
        widths = [part.shape[-1] for part in parts]
        if len(parts) == 1 and widths[0] != 3 * self._input().shape[-1]:
            raise StageError(
                f"{self._description} makes {widths[0]} numbers of {self._input().shape[-1]}, and "
                "not queries, keys and values of that width; name the layer that makes all three, "
                "or three layers: [QUERIES, KEYS, VALUES]"
            )
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(list(part.shape[1:])) for part in parts)
            raise StageError(
                f"{self._description} answer {shapes}: relations need queries, keys and values of "
                "one width, which heads that share keys do not have; use hidden_states there"
            )
        return torch.cat(parts, -1)


def hook_layer(module: nn.Module, name: str, whose: str, *, before: bool = False) -> LayerHook:
    """Return a hook on the layer of this name. Raises StageError as ``find_layer`` does."""
    layer = find_layer(module, name, whose)
    return LayerHook(layer, f"the {whose}'s layer {name!r}", before=before)


def describe_answer(output: Any) -> str:
    """Return the types in a layer's output, such as ``tuple (NoneType, Tensor)``."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} ({', '.join(map(str, output))})"
    if isinstance(output, tuple | list):
        return f"{kind} ({', '.join(type(entry).__name__ for entry in output)})"
    return kind


def find_layer(module: nn.Module, name: str, whose: str) -> nn.Module:
    """Return a layer by its name in ``named_modules``. Raises StageError if there is none."""
    layers = {layer_name: layer for layer_name, layer in module.named_modules() if layer_name}
    if name not in layers:
        raise StageError(
            f"the {whose} has no layer {name!r}; {suggest_name(name, layers)}"
            if layers
            else f"the {whose} has no layers that could be named"
        )
    layer: nn.Module = layers[name]
    return layer


def find_last_linear(module: nn.Module) -> nn.Linear:
    """Return the linear layer that was defined last, whose inputs are a classifier's features.

    Raises StageError if there is none.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise StageError(
            "the student has no linear layer whose input could be its features; name a layer in "
            "distiller.features"
        )
    return layers[-1]


def list_nesting_encoders(module: nn.Module) -> list[nn.TransformerEncoder]:
    """Return the encoders that give their layers nested tensors in evaluation mode."""
    encoders = [layer for layer in module.modules() if isinstance(layer, nn.TransformerEncoder)]
    return [encoder for encoder in encoders if encoder.use_nested_tensor]


@contextmanager
def keep_padding(module: nn.Module) -> Iterator[None]:
    """Let the layers of its encoders return padded tensors.

    In evaluation mode an encoder with a padding mask gives its layers nested tensors, which have no
    padding and cannot be compared with others.
    """
    nesting = list_nesting_encoders(module)
    for encoder in nesting:
        encoder.use_nested_tensor = False
    try:
        yield
    finally:
        for encoder in nesting:
            encoder.use_nested_tensor = True

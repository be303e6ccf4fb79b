"""Taps: what a layer inside a network answers, or is given, whenever the network is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attar.pipeline.core.errors import StageError, suggest_name


class Tap:
    """Reads one layer's answer, or with ``before`` its input. The network itself is left as it is.

    Of an answer that is a tuple or a list the first entry is read: the states, where a layer answers attention weights or a
    cache beside them.
    """

    def __init__(self, layer: nn.Module, what: str = "a layer that is listened to", *, before: bool = False) -> None:
        """``what``: as an error names the layer."""
        self._what = what
        self._read: Tensor | str = "was not called"
        if before:
            layer.register_forward_pre_hook(self._given)
        else:
            layer.register_forward_hook(self._answered)

    def __call__(self) -> Tensor:
        """What it read in the last call of the network, as float32. Raises StageError when that is no tensor."""
        if isinstance(self._read, str):
            raise StageError(f"{self._what} {self._read}; name another one")
        return self._read.float()

    def _given(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = inputs[0] if inputs else None
        self._read = found if isinstance(found, Tensor) else "is given no tensor first"

    def _answered(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = output[0] if isinstance(output, tuple | list) and output else output
        self._read = found if isinstance(found, Tensor) else f"answers {describe_answer(output)}, not a tensor first"


class Projections:
    """Reads queries, keys and values side by side, ``(B, S, 3 width)``: of one layer that answers all three, or of one each."""

    def __init__(self, module: nn.Module, names: str | Sequence[str], whose: str) -> None:
        self._what = f"the {whose}'s {names if isinstance(names, str) else ', '.join(names)}"
        single = [names] if isinstance(names, str) else names
        self._taps = [tap_layer(module, name, whose) for name in single]
        self._input = Tap(named(module, single[0], whose), f"the {whose}'s layer {single[0]!r}", before=True)

    def __call__(self) -> Tensor:
        """Of the last call of the network. Raises StageError for what cannot be three projections of one width."""
        parts = [tap() for tap in self._taps]
        widths = [part.shape[-1] for part in parts]
        if len(parts) == 1 and widths[0] != 3 * self._input().shape[-1]:
            raise StageError(
                f"{self._what} makes {widths[0]} numbers of {self._input().shape[-1]}, and not queries, keys and values of that "
                "width; name the layer that makes all three, or three layers: [QUERIES, KEYS, VALUES]"
            )
        if len({part.shape for part in parts}) > 1:
            raise StageError(
                f"{self._what} answer {', '.join(str(list(part.shape[1:])) for part in parts)}: relations need queries, keys and "
                "values of one width, which heads that share keys do not have; use hidden_states there"
            )
        return torch.cat(parts, -1)


def tap_layer(module: nn.Module, name: str, whose: str) -> Tap:
    """Return a tap of the layer of this name. Raises StageError as ``named`` does."""
    return Tap(named(module, name, whose), f"the {whose}'s layer {name!r}")


def describe_answer(output: Any) -> str:
    """Return the types in an answer, as a message names them: ``tuple (NoneType, Tensor)``."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} ({', '.join(map(str, output))})"
    return f"{kind} ({', '.join(type(entry).__name__ for entry in output)})" if isinstance(output, tuple | list) else kind


def named(module: nn.Module, name: str, whose: str) -> nn.Module:
    """A layer by its name in ``named_modules``. Raises StageError, with the names that exist, for any other."""
    layers = {each: layer for each, layer in module.named_modules() if each}
    if name not in layers:
        raise StageError(
            f"the {whose} has no layer {name!r}; {suggest_name(name, layers)}"
            if layers
            else f"the {whose} has no layers that could be named"
        )
    found: nn.Module = layers[name]
    return found


def last_linear(module: nn.Module) -> nn.Linear:
    """The linear layer that was defined last: its inputs are the features that a classifier reads. Raises StageError if none."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not found:
        raise StageError("the student has no linear layer whose input could be its features; name a layer in distiller.features")
    return found[-1]

"""Taps: what a layer inside a network answers, or is given, whenever the network is called."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attar.pipeline.core.errors import StageError, did_you_mean


class Tap:
    """Reads one layer's answer, or with ``before`` its input. The network itself is left as it is."""

    def __init__(self, layer: nn.Module, *, before: bool = False) -> None:
        self._read: Tensor | None = None
        if before:
            layer.register_forward_pre_hook(self._given)
        else:
            layer.register_forward_hook(self._answered)

    def __call__(self) -> Tensor:
        """What it read in the last call of the network, as float32. Raises StageError when it was not reached or is no tensor."""
        if self._read is None:
            raise StageError("a layer that is listened to was not called, or gave no tensor; name another one")
        return self._read.float()

    def _given(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._read = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None

    def _answered(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._read = output if isinstance(output, Tensor) else None


def named(module: nn.Module, name: str, whose: str) -> nn.Module:
    """A layer by its name in ``named_modules``. Raises StageError, with the names that exist, for any other."""
    layers = {each: layer for each, layer in module.named_modules() if each}
    if name not in layers:
        raise StageError(
            f"the {whose} has no layer {name!r}; {did_you_mean(name, layers)}"
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

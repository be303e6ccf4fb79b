"""Networks that generate, with one thing wrong each."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from attar.models.networks.translation import Translator, translator

Tensors = tuple[Tensor, ...]


class LatePlace(Translator):
    """Each step reads the place of the next one."""

    def step(self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        return super().step(token, place + 1, memory, state)


class Remembering(Translator):
    """A sentence begins with the state that the one before has ended with."""

    last: Tensors | None = None

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        memory, empty = super().start(source)
        last, self.last = self.last, None
        is_usable = last is not None and len(last[0]) == len(source)
        return memory, last if last is not None and is_usable else empty

    def step(self, token: Tensor, place: Tensor, memory: Tensors, state: Tensors) -> tuple[Tensor, Tensors]:
        logits, state = super().step(token, place, memory, state)
        self.last = tuple(tensor.detach() for tensor in state)
        return logits, state


class PaddingReader(Translator):
    """No mask hides the padding of a source."""

    def encode(self, source: Tensor) -> Tensors:
        self.pad = -1
        return super().encode(source)


class StepReadsPadding(Translator):
    """The padding of a source is hidden in training alone."""

    def start(self, source: Tensor) -> tuple[Tensors, Tensors]:
        (mask, *caches), state = super().start(source)
        return (mask * 0, *caches), state


def change(kind: type[Translator], options: dict[str, Any]) -> Translator:
    network = translator(**options)
    network.__class__ = kind
    return network


def late_place(**options: Any) -> Translator:
    return change(LatePlace, options)


def remembering(**options: Any) -> Translator:
    return change(Remembering, options)


def padding_reader(**options: Any) -> Translator:
    return change(PaddingReader, options)


def step_reads_padding(**options: Any) -> Translator:
    return change(StepReadsPadding, options)

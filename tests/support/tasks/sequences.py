"""Sequences to think about: graphs of numpy whose logits are known, a small task, a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from attar.models.generation import START, STEP, Decoding, Integers, Vocabulary
from attar.models.networks.translation import Translator, translator
from attar.models.task import (
    Array,
    Arrays,
    InMemory,
    Output,
    Predict,
    Split,
    SplitName,
    Task,
    Tensor,
)
from attar.stages.artifacts import Weights
from tests.support.tasks import smoke

SIZE, LONGEST = 7, 6
WORDS = Vocabulary(SIZE, begin=1, end=2, pad=0)
KEYS = 101
SAMPLES = {"train": 40, "validation": 12, "test": 10, "transfer": 8}
REVERSAL = "tests.support.tasks.sequences:Reversal"
LABELLED_REVERSAL = "tests.support.tasks.sequences:LabelledReversal"
TRANSLATOR = "attar.models.networks.translation:translator"
OPTIONS: dict[str, Any] = {"size": SIZE, "width": 8, "heads": 2, "hidden": 12, "encoder": 1, "decoder": 2}
OPTIONS |= {"longest": 8}
Floats = npt.NDArray[np.float32]


def make_decoding(size: int = SIZE, longest: int = LONGEST, growth: tuple[int, int] = (1, 1)) -> Decoding:
    words = Vocabulary(size, begin=1, end=2, pad=0)
    return Decoding("words", words, longest, "source", 0, growth)


def make_chain(logits: Sequence[Sequence[float]]) -> dict[str, Predict]:
    """Return graphs whose next token depends on the last one alone: row ``t`` follows token ``t``."""
    table = np.array(logits, np.float32)

    def start(inputs: Arrays) -> dict[str, Array]:
        return {}

    def step(inputs: Arrays) -> dict[str, Array]:
        return {"logits": table[np.asarray(inputs["token"], np.int64)]}

    return {START: start, STEP: step}


def make_table(seed: int, size: int = SIZE) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, (KEYS, size)).astype(np.float32)


def make_history(table: Floats) -> dict[str, Predict]:
    """Return graphs whose next token depends on the source, its padding aside, and on all before.

    The state is the tokens so far, so a state of another hypothesis gives other logits.
    """

    def start(inputs: Arrays) -> dict[str, Array]:
        source = np.asarray(inputs["source"], np.int64)
        weighed = (source * np.arange(3, 3 + source.shape[1])).sum(1)
        return {"memory_0": weighed, "state_0": np.zeros((len(source), 0), np.int64)}

    def step(inputs: Arrays) -> dict[str, Array]:
        before = np.asarray(inputs["state_0"], np.int64)
        token, place = np.asarray(inputs["token"], np.int64), np.asarray(inputs["place"])
        assert place.tolist() == [before.shape[1]]
        history = np.concatenate([before, token[:, None]], 1)
        primes = np.array([7, 11, 13, 17, 19, 23, 29, 31, 37, 41])[: history.shape[1]]
        keys = (np.asarray(inputs["memory_0"], np.int64) + (history * primes).sum(1)) % KEYS
        return {"logits": table[keys], "next_state_0": history}

    return {START: start, STEP: step}


def draw_sources(seed: int, lengths: Sequence[int], size: int = SIZE) -> Integers:
    """Return sources of these lengths, padded to the longest."""
    generator = np.random.default_rng(seed)
    sources = generator.integers(3, size, (len(lengths), max(lengths)))
    padded: Integers = np.where(np.arange(max(lengths)) < np.array(lengths)[:, None], sources, 0)
    return padded


class Reversal(Task):
    """One to five tokens, and the same in the other order. Some samples have no labels."""

    inputs = {"source": Tensor("int64", ("batch", "source"), high=SIZE, pad=0)}
    outputs = {"words": Output(("batch", LONGEST), kind="tokens", target="words", size=SIZE, growth=(1, 1))}
    ranges = {"batch": (1, 64), "source": (1, 5)}
    score_name = "exact match"
    transfer = True

    def data(self) -> list[str]:
        return ["generated tokens 1"]

    def split(self, name: SplitName) -> Split:
        start = sum(list(SAMPLES.values())[: list(SAMPLES).index(name)])
        sources = draw_different_sources(sum(SAMPLES.values()))[start : start + SAMPLES[name]]
        targets = {} if name == "transfer" else {"words": reverse_sources(sources)}
        return InMemory({"source": sources}, targets)

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        """The share of equal tokens, padding included."""
        got, expected = (np.asarray(side["words"], np.int64) for side in (outputs, targets))
        shares: npt.NDArray[np.float64] = (got == expected).mean(1)[:, None]
        return shares


class LabelledReversal(Reversal):
    """All samples have labels."""

    transfer = False


TASK, DECODING = Reversal(), make_decoding()


def draw_different_sources(count: int) -> Integers:
    lengths = np.random.default_rng(5).integers(1, 6, 20 * count)
    drawn: Integers = draw_sources(5, lengths.tolist())
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)[:count]]


def reverse_sources(sources: Integers) -> Integers:
    made = np.zeros((len(sources), LONGEST), np.int64)
    for row, source in zip(made, sources, strict=True):
        own = source[source != 0]
        row[: len(own) + 1] = [*own[::-1], WORDS.end]
    return made


def make_translator() -> Translator:
    """Return a network of random weights, so large that sources have different translations.

    About half of them end before their limit.
    """
    torch.manual_seed(28)
    network = translator(**OPTIONS)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if tensor.ndim == 2 and name != "embedding.weight":
                tensor.mul_(6)
        network.decoder_norm.weight.mul_(2)
        network.decoder_norm.bias.normal_()
    return network.eval()


def store_translator(root: Path) -> Weights:
    return smoke.stored(root, make_translator(), TRANSLATOR, REVERSAL, OPTIONS)


def change_task(base: type[Task] = Reversal, **attributes: Any) -> Task:
    """Return a task with other attributes."""
    made = type("Changed", (base,), attributes)()
    assert isinstance(made, Task)
    return made


class Recurrent(nn.Module):
    """A network without memory, of a state that does not grow and a count; it reads no places."""

    def __init__(self, size: int = SIZE, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.cell = nn.Embedding(size, width), nn.Linear(2 * width, width)
        self.output = nn.Linear(width, size)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(4)

    def start(self, source: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        is_content = (source != WORDS.pad)[..., None].float()
        summed = (self.embedding(source) * is_content).sum(1)
        return (), (torch.tanh(summed), torch.zeros_like(source[:, 0]))

    def step(
        self,
        token: torch.Tensor,
        place: torch.Tensor,
        memory: tuple[torch.Tensor, ...],
        state: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        hidden = torch.tanh(self.cell(torch.cat([self.embedding(token), state[0]], 1)))
        count = state[1] + 1
        return self.output(hidden) + torch.sin(count.float())[:, None] * hidden[:, :SIZE], (hidden, count)

    def forward(self, source: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        memory, state = self.start(source)
        logits = []
        for token in prefix.T:
            row, state = self.step(token, torch.zeros(1), memory, state)
            logits.append(row)
        return torch.stack(logits, 1)

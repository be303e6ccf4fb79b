"""Three to five digits, spelled one by one: ``407`` to ``quatre zéro sept``. A student learns it in seconds.

Below it, the same task with one thing wrong each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Step, Tokenize
from attar.models.task import InMemory, Output, Split, SplitName
from attar.models.tasks.numbers import BEGIN, END, PAD, SIZE, TOKENIZER, UNITS, Numbers, read_vocabulary

LONGEST = 6
"""Places for tokens: five words and the end token."""
COUNTS = {"train": 2000, "validation": 100, "test": 160}
WORDS: dict[str, Any] = {"target": "words", "begin": BEGIN, "end": END, "pad": PAD, "growth": (1, 1)}
Integers = npt.NDArray[np.int64]


class Spelled(Numbers):
    """A word for each digit, so that every sequence takes all that its limit allows."""

    ranges = {"batch": (1, 32), "digits": (3, 5)}
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"digits": [Tokenize(file=TOKENIZER, length=5)]}
    outputs = {"words": Output(("batch", LONGEST), kind="tokens", size=SIZE, **WORDS)}

    def split(self, name: SplitName) -> Split:
        digits = draw_digits()[name]
        return InMemory({"digits": np.array(digits)}, {"words": spell(digits)})


@cache
def draw_digits() -> dict[str, list[str]]:
    """The digits of each split; none is in two of them."""
    generator, drawn = np.random.default_rng(0), dict[str, None]()
    while len(drawn) < sum(COUNTS.values()):
        drawn["".join(map(str, generator.integers(0, 10, generator.integers(3, 6))))] = None
    digits, start, splits = list(drawn), 0, {}
    for name in ("test", "validation", "train"):
        splits[name] = digits[start : start + COUNTS[name]]
        start += COUNTS[name]
    return splits


def spell(digits: list[str]) -> Integers:
    vocabulary = read_vocabulary()
    spelled = np.full((len(digits), LONGEST), PAD, np.int64)
    for row, text in zip(spelled, digits, strict=True):
        row[: len(text) + 1] = [*(vocabulary[UNITS[int(digit)]] for digit in text), END]
    return spelled


class Renumbered(Spelled):
    """Two words have each other's number."""

    def split(self, name: SplitName) -> Split:
        return change_words(super().split(name), exchange_first_words)


class Larger(Spelled):
    """A vocabulary with one word more."""

    outputs = {"words": Output(("batch", LONGEST), kind="tokens", size=SIZE + 1, **WORDS)}


class LateSpelled(Spelled):
    """Every label of the test split stands one row late."""

    def split(self, name: SplitName) -> Split:
        split = super().split(name)
        return change_words(split, lambda words: np.roll(words, 1, 0)) if name == "test" else split


def change_words(split: Split, change: Callable[[Integers], Integers]) -> InMemory:
    batch = split.take(np.arange(len(split)))
    return InMemory(batch.inputs, {"words": change(np.asarray(batch.targets["words"], np.int64))})


def exchange_first_words(words: Integers) -> Integers:
    vocabulary = read_vocabulary()
    one, two = vocabulary[UNITS[1]], vocabulary[UNITS[2]]
    return np.where(words == one, two, np.where(words == two, one, words))

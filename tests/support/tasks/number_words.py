"""A task of few numbers, and programs that spell them: right, and wrong in one way each."""

from __future__ import annotations

from typing import Any

import numpy as np

from attar.models.task import InMemory, Split, SplitName
from attar.models.tasks.numbers import Numbers, encode_words, spell_number

TASK = f"{__name__}:FewNumbers"
SPELL = f"{__name__}:spell"
PLACES = {"test": slice(0, 160), "validation": slice(160, 210), "train": slice(210, None)}
LONG = " ".join(["mille"] * 16)


class FewNumbers(Numbers):
    """The numbers below a thousand."""

    def split(self, name: SplitName) -> Split:
        numbers = np.random.default_rng(0).permutation(1000)[PLACES[name]].tolist()
        return InMemory({"digits": np.array([str(number) for number in numbers])}, {"words": encode_words(numbers)})


def spell(texts: list[str]) -> list[str]:
    """Rules without a network."""
    return [spell_number(int(text)) for text in texts]


def shift(texts: list[str]) -> list[str]:
    """Each text has the translation of the one before it."""
    right = spell(texts)
    return right[-1:] + right[:-1]


def drop_last(texts: list[str]) -> list[str]:
    return spell(texts)[:-1]


def join(texts: list[str]) -> str:
    return " ".join(spell(texts))


def count(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


def fail(texts: list[str]) -> list[str]:
    raise ConnectionError("the service is away")


def keep_silent(texts: list[str]) -> list[str]:
    return [" " for _ in texts]


def ramble(texts: list[str]) -> list[str]:
    return [LONG for _ in texts]


def speak_english(texts: list[str]) -> list[str]:
    return ["seven" for _ in texts]


def say_end(texts: list[str]) -> list[str]:
    return ["sept [END] sept" for _ in texts]


def break_surrogates(texts: list[str]) -> list[str]:
    return ["sept \ud800" for _ in texts]


class Speller:
    """A class, which is no function of texts, though it can be called."""


calls = 0


def waver(texts: list[str]) -> list[str]:
    """Another translation at every call."""
    global calls
    calls += 1
    return [spell_number(calls) for _ in texts]


CONSTANT: Any = "no function"

"""Numbers: digits to French number words, ``71`` to ``soixante et onze``.

The smoke task of sequences, without a download. The data are made here, so every number below a
million has one right answer, and a test number is in no other split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.postprocess import Detokenize
from attar.models.preprocess import Step, Tokenize
from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor

UNITS = (
    *[
        "zéro",
        "un",
        "deux",
        "trois",
        "quatre",
        "cinq",
        "six",
        "sept",
        "huit",
        "neuf",
        "dix",
        "onze",
        "douze",
        "treize",
        "quatorze",
        "quinze",
        "seize",
    ],
    *("dix sept", "dix huit", "dix neuf"),
)
TENS = {2: "vingt", 3: "trente", 4: "quarante", 5: "cinquante", 6: "soixante", 8: "quatre vingt"}
TOKENIZER = Path(__file__).with_name("numbers.tokenizer.json")
PAD, BEGIN, END = 0, 1, 2
SIZE = 41
"""Tokens: padding, begin, end, unknown, ten digits, 27 words."""
LIMIT = 1_000_000
LONGEST = 16
"""Places for tokens; the longest words take 14, with the end token."""
COUNTS = {"train": 12_000, "validation": 500, "test": 1_000}
LARGE_NUMBERS = 9_800
"""Draws of numbers of four to six digits, of which a few are equal."""
REPEATS = {1: 60, 2: 15, 3: 2}
"""How often a number to train on is there, by its digits; once if it is longer."""


class Numbers(Task):
    """Numbers below a million, one digit a token, to their words."""

    inputs = {"digits": Tensor("int64", ("batch", "digits"), high=SIZE, pad=PAD)}
    outputs = {
        "words": Output(
            ("batch", LONGEST),
            kind="tokens",
            target="words",
            size=SIZE,
            begin=BEGIN,
            end=END,
            pad=PAD,
            growth=(2, 6),
        )
    }
    ranges = {"batch": (1, 64), "digits": (1, 6)}
    score_name = "exact match"
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "digits": [Tokenize(file=TOKENIZER, length=6, whole=True)]
    }
    postprocess: ClassVar[Mapping[str, Sequence[Step]]] = {
        "words": [Detokenize(file=TOKENIZER, end=END)]
    }

    def data(self) -> list[Path | str]:
        return [TOKENIZER]

    def split(self, name: SplitName) -> Split:
        numbers = draw_numbers()[name]
        texts = np.array([str(number) for number in numbers])
        return InMemory({"digits": texts}, {"words": encode_words(numbers)})

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        """1 where all words up to the end are right, else 0."""
        return match_exactly(
            np.asarray(outputs["words"], np.int64), np.asarray(targets["words"], np.int64)
        )


def match_exactly(
    tokens: npt.NDArray[np.int64], expected: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return 1 for each equal sequence ``[N, T]``, else 0, as statistics ``[N, 1]``."""
    statistics: npt.NDArray[np.float64] = (tokens == expected).all(1).astype(np.float64)[:, None]
    return statistics


@cache
def draw_numbers() -> dict[str, list[int]]:
    """Return the numbers of each split: all below a thousand, whole thousands, and some others.

    There are few short numbers, so those to train on are repeated.
    """
    generator = np.random.default_rng(0)
    sizes = generator.integers(4, 7, LARGE_NUMBERS)
    larger = generator.random(LARGE_NUMBERS) * 0.9 * 10.0**sizes + 10.0 ** (sizes - 1)
    pool = [*range(1000), *range(1000, LIMIT, 1000), *larger.astype(np.int64).tolist()]
    drawn = np.fromiter(dict.fromkeys(pool), np.int64)
    shuffled = generator.permutation(drawn).tolist()
    held_out = COUNTS["test"] + COUNTS["validation"]
    train = []
    by_length = sorted(shuffled[held_out:], key=lambda number: number >= 1000)
    for number in by_length:
        train += [number] * REPEATS.get(len(str(number)), 1)
    return {
        "test": shuffled[: COUNTS["test"]],
        "validation": shuffled[COUNTS["test"] : held_out],
        "train": train[: COUNTS["train"]],
    }


def encode_words(numbers: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the tokens of the words of each number, ``[N, LONGEST]``."""
    vocabulary = read_vocabulary()
    encoded = np.full((len(numbers), LONGEST), PAD, np.int64)
    for row, number in zip(encoded, numbers, strict=True):
        tokens = [vocabulary[word] for word in spell_number(number).split()]
        row[: len(tokens) + 1] = [*tokens, END]
    return encoded


@cache
def read_vocabulary() -> dict[str, int]:
    vocabulary: dict[str, int] = json.loads(TOKENIZER.read_text("utf-8"))["model"]["vocab"]
    return vocabulary


def spell_number(number: int) -> str:
    """Return the French words of a number below a million, without hyphens."""
    thousands, rest = divmod(number, 1000)
    words = []
    if thousands:
        words += [
            *([] if thousands == 1 else [spell_below_thousand(thousands, plural=False)]),
            "mille",
        ]
    if rest or not thousands:
        words.append(spell_below_thousand(rest))
    return " ".join(words)


def spell_below_thousand(number: int, plural: bool = True) -> str:
    """Return the words of a number below a thousand.

    ``plural``: whether ``cents`` and ``vingts`` take an s at the end; before ``mille`` they do not.
    """
    hundreds, rest = divmod(number, 100)
    words = []
    if hundreds:
        ends = plural and hundreds > 1 and not rest
        words += [*([] if hundreds == 1 else [UNITS[hundreds]]), "cents" if ends else "cent"]
    if rest or not hundreds:
        words.append(spell_below_hundred(rest, plural))
    return " ".join(words)


def spell_below_hundred(number: int, plural: bool) -> str:
    """Return the words of a number below a hundred.

    From 70 on French counts by twenties: 71 is ``soixante et onze``, 97 ``quatre vingt dix sept``.
    """
    if number < 20:
        return UNITS[number]
    ten = number // 10 - (number // 10 in (7, 9))
    rest = number - 10 * ten
    if not rest:
        return f"{TENS[ten]}s" if ten == 8 and plural else TENS[ten]
    joined = " et " if rest in (1, 11) and ten != 8 else " "
    return f"{TENS[ten]}{joined}{UNITS[rest]}"

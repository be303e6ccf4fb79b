"""The snapshot of translated descriptions that `translate` is learned from: two files, the same
bytes for the same package lists.

Splits are those of source packages, since what is built from one source shares text. What training
has, exactly or with other names in it, is left out of what is measured on.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Tokenize
from attar.models.tasks.sentence_pairs import Pair
from attar.models.tasks.snapshot import choose_split, train_tokenizer
from attar.models.tasks.unpacking import read_json_lines, report_damage
from attar.pipeline.core.errors import StageError

Integers = npt.NDArray[np.int64]
PAIRS, TOKENIZER = "translate.jsonl.gz", "tokenizer.json"
TEST, VALIDATION = 4, 1
"""Of a hundred source packages."""
VOCABULARY = 8000
PAD, BEGIN, END = 0, 1, 2
SPECIAL_TOKENS = ("[PAD]", "[BEGIN]", "[END]")
LONGEST = 64
"""Tokens of the longest sentence, with the end token."""
REPEATED_SHARE = 0.7
"""Of a sentence's trigrams in one training sentence, from which on it is a near-repeat."""
NAME = "*"
NAME_MARKS = frozenset("0123456789_/:@+=$<>")
PUNCTUATION = ".,;:!?()[]{}\"'`«»“”\u2018\u2019"
HELD_OUT = ("validation", "test")


class Sentence(NamedTuple):
    """A pair of sentences as the snapshot has it."""

    split: str
    english: str
    foreign: str
    tokens: int
    """Of the longer side, the target's end token included."""
    is_novel: bool
    """Whether no training sentence is nearly the same; false for those of training."""


def write_snapshot(folder: Path, pairs: Iterable[Pair]) -> list[Sentence]:
    """Write both files into ``folder``, and return what is in them.

    Raises StageError if a split is empty.
    """
    splits = drop_leaks(split_pairs(pairs))
    if lacking := [name for name in ("train", *HELD_OUT) if not splits.get(name)]:
        raise StageError(
            f"the package lists hold no translations for {', '.join(lacking)}; fetch where "
            "/etc/apt lists a whole release of Debian, its component main at least"
        )
    learned = (text for pair in splits["train"] for text in (pair.english, pair.foreign))
    train_tokenizer(folder / TOKENIZER, learned, VOCABULARY, SPECIAL_TOKENS, is_written=True)
    sentences = list(mark_novel(splits))
    lengths = measure_pairs(sentences, folder / TOKENIZER)
    fitting = [
        sentence._replace(tokens=length)
        for sentence, length in zip(sentences, lengths, strict=True)
        if length <= LONGEST
    ]
    lines = "".join(json.dumps(sentence) + "\n" for sentence in fitting)
    (folder / PAIRS).write_bytes(gzip.compress(lines.encode(), mtime=0))
    return fitting


def split_pairs(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Return the unique pairs of each split. What is the same but for capitals is the same."""
    splits: dict[str, dict[tuple[str, str], Pair]] = defaultdict(dict)
    for pair in pairs:
        english, foreign = (
            unicodedata.normalize("NFC", text) for text in (pair.english, pair.foreign)
        )
        pair = pair._replace(english=english, foreign=foreign)
        if any(token in english + foreign for token in SPECIAL_TOKENS):
            continue
        split = splits[choose_split(pair.source, TEST, VALIDATION)]
        split.setdefault((english.casefold(), foreign.casefold()), pair)
    return {name: list(split.values()) for name, split in splits.items()}


def drop_leaks(splits: dict[str, list[Pair]]) -> dict[str, list[Pair]]:
    """Return the splits without held-out pairs of which training has a side, in either language:
    some sentences are left untranslated."""
    known = {key for pair in splits.get("train", []) for key in list_keys(pair)}
    return {
        name: [pair for pair in pairs if name == "train" or known.isdisjoint(list_keys(pair))]
        for name, pairs in splits.items()
    }


def list_keys(pair: Pair) -> list[tuple[str, ...]]:
    """Return what makes a pair a repeat of another: its sides, and its sides with names masked."""
    sides = (pair.english, pair.foreign)
    return [("whole", text.casefold()) for text in sides] + [
        ("masked", *mask_names(text, pair)) for text in sides
    ]


def mask_names(text: str, pair: Pair) -> list[str]:
    """Return the words of a sentence in lower case, a star for each name.

    A name is the package's, the source's, or a word with a capital (but the first of the sentence),
    a digit or a sign inside of it.
    """
    names = {pair.package, pair.source}
    masked: list[str] = []
    for place, word in enumerate(text.split()):
        word = word.strip(PUNCTUATION)
        inner = word[1:] if place == 0 else word
        is_name = word in names or inner != inner.lower() or not NAME_MARKS.isdisjoint(word)
        if is_name and masked[-1:] != [NAME]:
            masked.append(NAME)
        elif word and not is_name:
            masked.append(word.casefold())
    return masked


def measure_pairs(sentences: Sequence[Sentence], tokenizer: Path) -> list[int]:
    """Return the tokens of each pair's longer side, the target's end token included; at most
    ``LONGEST + 1``."""
    step = Tokenize(file=tokenizer, length=LONGEST + 1)
    english, foreign = (
        (step(np.array(texts, object)) != PAD).sum(1)
        for texts in (
            [sentence.english for sentence in sentences],
            [sentence.foreign for sentence in sentences],
        )
    )
    lengths: list[int] = np.maximum(english, foreign + 1).tolist()
    return lengths


def encode_targets(texts: npt.NDArray[np.object_], tokenizer: Path, longest: int) -> Integers:
    """Return the tokens of each text, an end token and padding, ``[N, longest]``."""
    tokens = Tokenize(file=tokenizer, length=longest - 1)(texts)
    targets = np.full((len(texts), longest), PAD, np.int64)
    targets[:, : tokens.shape[1]] = tokens
    targets[np.arange(len(texts)), (tokens != PAD).sum(1)] = END
    return targets


def mark_novel(splits: dict[str, list[Pair]]) -> Iterator[Sentence]:
    """Yield the sentences of all splits, not measured yet.

    Those held out are novel unless they are near-repeats.
    """
    held_out = [pair for name in HELD_OUT for pair in splits[name]]
    wanted = {trigram for pair in held_out for trigram in list_trigrams(pair)}
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, pair in enumerate(splits["train"]):
        for trigram in wanted.intersection(list_trigrams(pair)):
            places[trigram].append(number)
        yield Sentence("train", pair.english, pair.foreign, 0, False)
    for name in HELD_OUT:
        for pair in splits[name]:
            trigrams = list_trigrams(pair)
            sharing = [number for trigram in trigrams for number in places.get(trigram, ())]
            most = int(np.bincount(sharing).max()) if sharing else 0
            is_novel = most < REPEATED_SHARE * len(trigrams)
            yield Sentence(name, pair.english, pair.foreign, 0, is_novel)


def list_trigrams(pair: Pair) -> set[tuple[str, ...]]:
    """Return the trigrams of the English words, names masked; of fewer than three words all."""
    words = mask_names(pair.english, pair)
    if len(words) < 3:
        return {tuple(words)}
    return set(zip(words, words[1:], words[2:], strict=False))


def read_sentences(file: Path) -> list[Sentence]:
    """As written. Raises StageError for a file that is none."""
    with report_damage(file):
        return [Sentence(*fields) for fields in read_json_lines(file)]

"""Sentence pairs: which sentences of a Debian description are each other's translation.

A description is a first line, and paragraphs of prose and list items. What has the same shape in
both languages is aligned: paragraphs, then their blocks, then the sentences of a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from attar.models.tasks.debian import Description

FEWEST_WORDS, MOST_WORDS = 3, 40
MOST_CHARACTERS = 400
RATIO, SLACK_WORDS = 1.6, 3
"""The longer side has at most ``RATIO`` times the words of the shorter one, and ``SLACK_WORDS``."""
ITEM = re.compile(r"[-*+•·o] +(?=\S)")
"""What a list item begins with."""
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')»]? (?=[\"'(«]?[A-ZÀ-Ý0-9])")
ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|e\.g|i\.e|etc|vs|cf|es|ecc|cioè|Dr|Mr|St|No|Inc|Ltd|Corp|Co|ver|incl)\.$"
)
"""What ends in a full stop and ends no sentence."""
PUNCTUATION = (";", ",", ".")
UNTRANSLATED = "<trans>"


class Pair(NamedTuple):
    """A sentence and its translation, and the names of its package and of its source package."""

    english: str
    foreign: str
    package: str
    source: str


class Block(NamedTuple):
    """A list item, or prose between two of them."""

    is_item: bool
    text: str


Paragraph = list[Block]


def align_description(description: Description) -> Iterator[Pair]:
    """Yield the pairs of sentences of a description, without those that cannot be one."""
    english, foreign = map(split_paragraphs, (description.english, description.foreign))
    for one, other in align_blocks(english, foreign):
        for sentence, translation in align_sentences(one.text, other.text):
            if one.is_item:
                translation = match_ending(sentence, translation)
            if is_pair(sentence, translation):
                yield Pair(sentence, translation, description.package, description.source)


def split_paragraphs(description: str) -> list[Paragraph]:
    """Return the paragraphs of a description; its first line is the first one."""
    short, _, long = description.partition("\n")
    paragraphs = [[Block(False, join_words([short]))]]
    for text in re.split(r"^ *\.? *$", long, flags=re.MULTILINE):
        blocks = list(split_blocks(text.splitlines()))
        if blocks:
            paragraphs.append(blocks)
    return paragraphs


def split_blocks(lines: list[str]) -> Iterator[Block]:
    """Yield the list items of a paragraph and the prose between them."""
    is_item, depth, gathered = False, 0, list[str]()
    for line in lines:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        mark = ITEM.match(text)
        leaves_item = is_item and indent <= depth
        if gathered and (mark or leaves_item):
            yield Block(is_item, join_words(gathered))
            gathered = []
        if mark:
            is_item, depth, text = True, indent, text[mark.end() :]
        elif leaves_item:
            is_item = False
        if text:
            gathered.append(text)
    if gathered:
        yield Block(is_item, join_words(gathered))


def join_words(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def align_blocks(
    english: list[Paragraph], foreign: list[Paragraph]
) -> Iterator[tuple[Block, Block]]:
    """Yield the blocks of paragraphs that have as many, of the same kinds."""
    if len(english) != len(foreign):
        english, foreign = english[:1], foreign[:1]
    for one, other in zip(english, foreign, strict=True):
        if [block.is_item for block in one] == [block.is_item for block in other]:
            yield from zip(one, other, strict=True)


def align_sentences(english: str, foreign: str) -> list[tuple[str, str]]:
    """Return the sentences of both texts, or the texts where one of them has more sentences."""
    one, other = split_sentences(english), split_sentences(foreign)
    if len(one) != len(other):
        return [(english, foreign)]
    return list(zip(one, other, strict=True))


def split_sentences(text: str) -> list[str]:
    sentences, start = [], 0
    for end in SENTENCE_END.finditer(text):
        if not ABBREVIATION.search(text[start : end.start()]):
            sentences.append(text[start : end.end()].strip())
            start = end.end()
    return [*sentences, text[start:]]


def match_ending(english: str, foreign: str) -> str:
    """Return a translated list item with the English punctuation at its end: many gain a ``;``."""
    if foreign.endswith(("...", "ecc.")):
        return foreign
    kept = english[-1:] if english.endswith(PUNCTUATION) else ""
    return foreign.rstrip("".join(PUNCTUATION)) + kept


def is_pair(english: str, foreign: str) -> bool:
    """Whether both are of a usable length, like each other's, and the text is translated."""
    words = sorted(len(text.split()) for text in (english, foreign))
    return (
        words[0] >= FEWEST_WORDS
        and words[1] <= MOST_WORDS
        and words[1] <= RATIO * words[0] + SLACK_WORDS
        and max(len(english), len(foreign)) <= MOST_CHARACTERS
        and UNTRANSLATED not in foreign
        and english.casefold() != foreign.casefold()
    )

"""Sentence pairs: the alignment of descriptions by hand."""

from __future__ import annotations

import pytest

from attar.models.tasks import sentence_pairs
from attar.models.tasks.debian import Description
from attar.models.tasks.sentence_pairs import Block, align_description

ENGLISH = """small board game
 It is a game for two, e.g. You and me. The winner
 takes all!
 .
 It has:
  * a board of wood
    with squares
  - two hundred stones, and more;
 Have fun with it."""
ITALIAN = """piccolo gioco da tavolo
 È un gioco per due, es. Tu ed io. Chi vince
 prende tutto!
 .
 Ha:
  * una scacchiera di legno
    con caselle;
  - duecento pietre e altre.
 Buon divertimento con esso."""


def align(english: str, italian: str) -> list[tuple[str, str]]:
    return [(pair.english, pair.foreign) for pair in align_description(Description("go", "go-source", english, italian))]


def test_a_description_by_hand() -> None:
    assert align(ENGLISH, ITALIAN) == [
        ("small board game", "piccolo gioco da tavolo"),
        ("It is a game for two, e.g. You and me.", "È un gioco per due, es. Tu ed io."),
        ("The winner takes all!", "Chi vince prende tutto!"),
        ("a board of wood with squares", "una scacchiera di legno con caselle"),
        ("two hundred stones, and more;", "duecento pietre e altre;"),
        ("Have fun with it.", "Buon divertimento con esso."),
    ]


def test_blocks_of_a_paragraph() -> None:
    lines = [" first line", " goes on", "  * an item", "    of two lines", "  * another", " and prose"]
    assert list(sentence_pairs.split_blocks(lines)) == [
        Block(False, "first line goes on"),
        Block(True, "an item of two lines"),
        Block(True, "another"),
        Block(False, "and prose"),
    ]


def test_other_shapes_are_not_aligned() -> None:
    """Another number of paragraphs leaves the first line; another number of sentences leaves whole blocks."""
    assert align("one two three\n A b c d.\n .\n E f g h.", "uno due tre\n A bi ci di.") == [("one two three", "uno due tre")]
    assert align("a word\n One two three. Four five six.", "parola\n Uno due tre e quattro cinque sei.") == [
        ("One two three. Four five six.", "Uno due tre e quattro cinque sei.")
    ]
    assert align("a word\n One two three:\n  * four five six", "parola\n Uno due tre: quattro cinque sei") == []


@pytest.mark.parametrize(
    ("english", "foreign", "expected"),
    [
        ("a fine list item", "una bella voce;", "una bella voce"),
        ("a fine list item.", "una bella voce;", "una bella voce."),
        ("a fine list item;", "una bella voce;", "una bella voce;"),
        ("a, b, c", "a, b, c ecc.", "a, b, c ecc."),
        ("and so on", "e così via...", "e così via..."),
    ],
)
def test_the_end_of_a_list_item_follows_the_english(english: str, foreign: str, expected: str) -> None:
    assert sentence_pairs.match_ending(english, foreign) == expected


@pytest.mark.parametrize(
    ("english", "foreign"),
    [
        ("two words", "due parole sole"),
        ("word " * 41, "parola " * 40),
        ("one two three", "uno due tre quattro cinque sei sette otto"),
        ("Perl module Foo", "perl module foo"),
        ("one two three", "uno due <trans>"),
        ("one two three", "x" * 400 + " due tre"),
    ],
)
def test_what_is_no_pair(english: str, foreign: str) -> None:
    assert not sentence_pairs.is_pair(english, foreign)
    assert sentence_pairs.is_pair("one two three", "uno due tre")

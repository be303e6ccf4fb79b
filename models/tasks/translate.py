"""Translate: Debian's package descriptions, sentence by sentence, from English to Italian."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models import translation_scores
from attar.models.postprocess import Detokenize
from attar.models.preprocess import Step, Tokenize
from attar.models.task import Array, Arrays, Batch, Output, Split, SplitName, Task, Tensor
from attar.models.tasks import debian, sentence_pairs, translations
from attar.models.tasks.folders import Home, find_first
from attar.models.tasks.translations import BEGIN, END, LONGEST, PAD, VOCABULARY, Sentence
from attar.pipeline.core.progress import report_progress

FOLDER = "debian-translations"
LANGUAGE = "it"
LANGUAGES = ("en", LANGUAGE)
SHORT_WORDS = 12
SHORT_LONGEST = 32
"""Tokens of the longest short sentence, with the end token."""
TINY_SIZES = {"train": 2000, "validation": 200, "test": 200}


def declare_output(longest: int) -> Output:
    return Output(
        ("batch", longest),
        kind="tokens",
        target="translation",
        size=VOCABULARY,
        begin=BEGIN,
        end=END,
        pad=PAD,
        growth=(2, 10),
    )


class Translate(Task):
    """English sentences of 3 to 40 words to Italian ones, over one vocabulary of 8,000 tokens.

    The score is BLEU, 0 to 100, of the texts that the tokens stand for.
    """

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=VOCABULARY, pad=PAD)}
    outputs = {"translation": declare_output(LONGEST)}
    ranges = {"batch": (1, 64), "sequence": (1, LONGEST)}
    score_name = "BLEU"
    longest: ClassVar[int] = LONGEST
    """Tokens of a source, and of a target with its end token."""

    @property
    def preprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # where the vocabulary lies is found out late
        file = HOME.find() / translations.TOKENIZER
        return {"text": [Tokenize(file=file, length=self.longest, whole=True)]}

    @property
    def postprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # as above
        return {"translation": [self.detokenize]}

    @property
    def detokenize(self) -> Detokenize:
        return Detokenize(file=HOME.find() / translations.TOKENIZER, end=END)

    def data(self) -> list[Path | str]:
        folder = HOME.find()
        return [folder / translations.PAIRS, folder / translations.TOKENIZER]

    def split(self, name: SplitName) -> Sentences:
        tokenizer = HOME.find() / translations.TOKENIZER
        return Sentences(self.select_sentences(name), tokenizer, self.longest)

    def select_sentences(self, name: str) -> tuple[Sentence, ...]:
        """Return the sentences of a split."""
        file = HOME.find() / translations.PAIRS
        return read_splits(file, file.stat().st_mtime_ns, file.stat().st_size)[name]

    def mark_subsets(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """``novel``: the sentences of which no training sentence has 70 % of the trigrams."""
        sentences = self.select_sentences("test")
        return {"novel": np.array([sentence.is_novel for sentence in sentences], bool)}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        """Return BLEU's ten sums of each sentence."""
        texts, references = (
            self.detokenize(np.asarray(tokens["translation"], np.int64)).tolist()
            for tokens in (outputs, targets)
        )
        return translation_scores.count_bleu(texts, references)

    def aggregate(self, statistics: npt.NDArray[np.float64]) -> float:
        return translation_scores.compute_bleu(statistics)

    def fetch(self) -> None:
        if HOME.find_complete() is None:
            fetch_snapshot(HOME.places()[-1])


class TranslateSmall(Translate):
    """The short sentences alone, of at most 12 words in both languages."""

    outputs = {"translation": declare_output(SHORT_LONGEST)}
    ranges = {"batch": (1, 64), "sequence": (1, SHORT_LONGEST)}
    longest = SHORT_LONGEST

    def select_sentences(self, name: str) -> tuple[Sentence, ...]:
        return tuple(filter(is_short, super().select_sentences(name)))


class TranslateTiny(TranslateSmall):
    """2,000 short sentences, which show in minutes that everything works, and not how well."""

    def select_sentences(self, name: str) -> tuple[Sentence, ...]:
        sentences = super().select_sentences(name)
        step = max(1, len(sentences) // TINY_SIZES[name])
        return sentences[::step][: TINY_SIZES[name]]


def is_short(sentence: Sentence) -> bool:
    words = max(len(text.split()) for text in (sentence.english, sentence.foreign))
    return words <= SHORT_WORDS and sentence.tokens <= SHORT_LONGEST


@dataclass(frozen=True)
class Sentences(Split):
    """Sentences as strings of one width, so that equal texts are equal bytes, and target tokens."""

    sentences: tuple[Sentence, ...]
    tokenizer: Path
    longest: int

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        taken = [self.sentences[index] for index in indices]
        text = np.array(
            [sentence.english for sentence in taken], f"<U{sentence_pairs.MOST_CHARACTERS}"
        )
        foreign = np.array([sentence.foreign for sentence in taken], object)
        targets = translations.encode_targets(foreign, self.tokenizer, self.longest)
        return Batch({"text": text}, {"translation": targets})


@lru_cache(maxsize=2)
def read_splits(file: Path, mtime: int, size: int) -> dict[str, tuple[Sentence, ...]]:
    """Return the splits of the file as it was at this mtime and size."""
    splits: dict[str, list[Sentence]] = {}
    for sentence in translations.read_sentences(file):
        splits.setdefault(sentence.split, []).append(sentence)
    return {name: tuple(sentences) for name, sentences in splits.items()}


HOME = Home(
    FOLDER,
    lambda folder: all(
        (folder / name).is_file() for name in (translations.PAIRS, translations.TOKENIZER)
    ),
    "the snapshot of Debian's translated package descriptions is not here; looked for "
    f"{translations.PAIRS} and {translations.TOKENIZER} in {{looked}}. Run `attar fetch RECIPE` "
    "where there is an apt-get, or copy both files there and set ATTAR_DATA to their folder",
)


def fetch_snapshot(folder: Path) -> None:
    """Write both files into ``folder``, and report the numbers of sentences.

    They are made from package lists in a folder ``lists`` of one of the places, else from those of
    today.
    """
    with tempfile.TemporaryDirectory() as temporary:
        places = [place / "lists" for place in HOME.places()]
        lists = find_first(places, lambda place: debian.has_lists(place, LANGUAGES))
        if lists is None:
            lists = Path(temporary) / "lists"
            debian.update_lists(lists, LANGUAGES, FOLDER)
        descriptions = debian.read_translated(lists, LANGUAGE)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = (
        pair
        for description in descriptions
        for pair in sentence_pairs.align_description(description)
    )
    sentences = translations.write_snapshot(folder, pairs)
    report_progress("sentences", len(sentences), len(sentences), describe_counts(sentences))


def describe_counts(sentences: Sequence[Sentence]) -> str:
    """Return, say, ``136507 train, 1120 validation (1049 novel), 4012 test (3688 novel)``."""
    counts = Counter(sentence.split for sentence in sentences)
    novel = Counter(sentence.split for sentence in sentences if sentence.is_novel)
    held_out = [f"{counts[name]} {name} ({novel[name]} novel)" for name in translations.HELD_OUT]
    return ", ".join([f"{counts['train']} train", *held_out])

"""Debian package topics: predict a package's section from the line that describes it. 35 sections,
seven words in a text."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Step, Tokenize
from attar.models.task import Array, Arrays, Batch, Output, Split, SplitName, Task, Tensor, hits
from attar.models.tasks import debian, minilm, snapshot
from attar.models.tasks.folders import Home, find_first

FOLDER = "debian-topics"
LENGTH = 48  # tokens: all but a few of the one-line texts, and most of a long one
DROPPED = 0.1  # of the words, in a view
EXCERPT = 16  # words of a view of a long text
SECTIONS = (
    "admin cli-mono devel doc editors fonts games gnome gnu-r golang graphics haskell interpreters "
    "introspection java javascript kde lisp localization mail math misc net ocaml perl php python "
    "ruby rust science sound text utils web x11"
)
"""Sections with at least 250 texts in Debian 12, without those that name how a package is built
(libs, libdevel, oldlibs, debug, metapackages)."""


class Topics(Task):
    """The text as tokens of a vocabulary of 8,192; transfer holds long descriptions of the training
    packages."""

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=snapshot.VOCABULARY, pad=0)}
    outputs = {"logits": Output(("batch", 35), target="section")}
    ranges = {"batch": (1, 64), "sequence": (1, LENGTH)}
    classes = tuple(SECTIONS.split())
    transfer: ClassVar[bool] = True

    @property
    def preprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # where the vocabulary lies is found out late
        return {"text": [Tokenize(file=HOME.find() / snapshot.TOKENIZER, length=LENGTH)]}

    def data(self) -> list[Path | str]:
        folder = HOME.find()
        return [folder / snapshot.TEXTS, folder / snapshot.TOKENIZER]

    def split(self, name: SplitName) -> Texts:
        file = HOME.find() / snapshot.TEXTS
        return read_splits(file, file.stat().st_mtime_ns, file.stat().st_size)[name]

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        """Cut an excerpt from a long text, as long as the measured texts, and leave out a tenth of
        the words, but never all."""
        return {
            "text": drop_words(cut_excerpts(inputs["text"], generator, EXCERPT), generator, DROPPED)
        }

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return hits(outputs["logits"], targets["section"])

    def fetch(self) -> None:
        if HOME.find_complete() is None:
            fetch_snapshot(HOME.places()[-1])


class FewTopics(Topics):
    """Every eighth text: shows in minutes that everything works, but not how well."""

    def split(self, name: SplitName) -> Texts:
        return super().split(name).take_every(8)


TEACHER = ("config.json", "model.safetensors", "tokenizer.json")
"""The files of MiniLM's package that decide its answers."""


class TopicsForMiniLM(Topics):
    """The same texts as tokens of MiniLM-L6 (Wang et al. 2020, arXiv:2002.10957), whose package
    ships the vocabulary."""

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=30522, pad=0)}

    @property
    def preprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # as above
        return {"text": [Tokenize(file=minilm.find_folder() / "tokenizer.json", length=LENGTH)]}

    def data(self) -> list[Path | str]:
        return [HOME.find() / snapshot.TEXTS, *(minilm.find_folder() / name for name in TEACHER)]


@dataclass(frozen=True)
class Texts(Split):
    """Texts are taken as an array ``(N,)`` of one width in all splits, so that equal texts are
    equal bytes."""

    texts: tuple[str, ...]
    sections: npt.NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.texts)

    def take_every(self, step: int) -> Texts:
        return Texts(self.texts[::step], None if self.sections is None else self.sections[::step])

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        text = np.array([self.texts[index] for index in indices], f"<U{snapshot.LONGEST}")
        return Batch(
            {"text": text}, {} if self.sections is None else {"section": self.sections[indices]}
        )


@lru_cache(maxsize=2)
def read_splits(file: Path, mtime: int, size: int) -> dict[str, Texts]:
    """Return the splits of a file with this mtime and size, cached because a run asks for them many
    times."""
    by_split: dict[str, list[snapshot.Text]] = {}
    for text in snapshot.read_texts(file):
        by_split.setdefault(text.split, []).append(text)
    return {name: make_texts(texts) for name, texts in by_split.items()}


def make_texts(texts: Sequence[snapshot.Text]) -> Texts:
    """Return texts with the numbers of their sections, if they have sections."""
    numbers = {section: number for number, section in enumerate(Topics.classes)}
    sections = [numbers[text.section] for text in texts if text.section is not None]
    return Texts(
        tuple(text.text for text in texts), np.array(sections, np.int64) if sections else None
    )


def cut_excerpts(texts: Array, generator: np.random.Generator, most: int) -> Array:
    """Return ``most`` consecutive words from a random place of each longer text; shorter texts are
    unchanged."""
    draws = generator.random(len(texts)).tolist()
    return np.array(
        [cut_excerpt(text, draw, most) for text, draw in zip(texts.tolist(), draws, strict=True)],
        texts.dtype,
    )


def cut_excerpt(text: str, draw: float, most: int) -> str:
    words = text.split()
    start = int(draw * (len(words) - most + 1))
    return " ".join(words[start : start + most]) if len(words) > most else text


def drop_words(texts: Array, generator: np.random.Generator, share: float) -> Array:
    """Leave out each word with probability ``share``, but never all: the word with the largest draw
    stays."""
    words = [text.split() for text in texts.tolist()]
    draws = generator.random((len(words), max(map(len, words), default=0)))  # (N, most words)
    return np.array(
        [" ".join(keep_words(own, row, share)) for own, row in zip(words, draws, strict=True)],
        texts.dtype,
    )


def keep_words(words: list[str], draws: npt.NDArray[np.float64], share: float) -> list[str]:
    least = min(share, float(draws[: len(words)].max(initial=0)))
    return [word for word, draw in zip(words, draws.tolist(), strict=False) if draw >= least]


HOME = Home(
    FOLDER,
    lambda folder: all((folder / name).is_file() for name in (snapshot.TEXTS, snapshot.TOKENIZER)),
    f"the snapshot of Debian's package descriptions is not here; looked for {snapshot.TEXTS} and "
    f"{snapshot.TOKENIZER} in {{looked}}. Run `attar fetch RECIPE` where there is an apt-get "
    "(docs/text.md says how to elsewhere), or copy both files there and set ATTAR_DATA to their "
    "folder",
)


def fetch_snapshot(folder: Path) -> None:
    """Write both files to ``folder``: from package lists in a folder ``lists`` of one of the
    places, else from current ones."""
    with tempfile.TemporaryDirectory() as temporary:
        lists = find_first([place / "lists" for place in HOME.places()], debian.has_lists)
        if lists is None:
            lists = Path(temporary) / "lists"
            debian.update_lists(lists)
        texts = snapshot.select_texts(debian.read_packages(lists), Topics.classes)
        folder.mkdir(parents=True, exist_ok=True)
        snapshot.write_snapshot(folder, texts, Topics.classes)

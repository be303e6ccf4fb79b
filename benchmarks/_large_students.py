"""Students of a usual size for ``benchmarks.engines``: a ResNet-18 at 224 pixels, and MiniLM, an
encoder of six layers, on 128 tokens. Their data are few, since no engine is faster for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import nn

from attar.models.networks.residual import Block, make_convolution
from attar.models.preprocess import Step, Tokenize
from attar.models.splits.cache import find_cache_folder
from attar.models.splits.files import FileSplit, list_classes, list_files
from attar.models.task import Batch, Split, SplitName
from attar.models.tasks import minilm
from attar.models.tasks.snapshot import LONGEST
from attar.models.tasks.topics import Texts, TopicsForMiniLM
from benchmarks._drawings import Drawings

PICTURES: Mapping[SplitName, slice] = {
    "train": slice(0, None, 10),
    "validation": slice(1, None, 50),
    "test": slice(2, None, 40),
}
"""Which of the drawings a split has."""
TEXTS: Mapping[SplitName, slice] = {
    "train": slice(0, None, 2),
    "validation": slice(None),
    "test": slice(0, None, 2),
}
"""Which of the joined texts of a split of ``topics``."""
TOKENS = 128
JOINED, WIDEST = 24, 24 * LONGEST
"""How many texts of one section become one, and its most characters."""


def resnet18(classes: int = 32) -> nn.Module:
    """Return the ResNet-18 of He et al. 2016 (arXiv:1512.03385, Table 1): images ``[B, 3, 224,
    224]`` to logits ``[B, classes]``."""
    stem = [make_convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = []
    inputs = 64
    for outputs in (64, 128, 256, 512):
        blocks += [Block(inputs, outputs, 1 if outputs == 64 else 2), Block(outputs, outputs, 1)]
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*stem, *blocks, *head)


class FewDrawings(Drawings):
    """Some of the pictures that ``benchmarks.loading`` makes, split by their drawing."""

    def __init__(self) -> None:
        home = find_cache_folder() / "openclipart"
        pictures = home / "pictures"
        names = list_files(pictures, list_classes(pictures)) if pictures.is_dir() else []
        whole = [name for name in names if name.endswith("-0.jpg")]
        super().__init__(home, drop_repeats(pictures, whole))

    def split(self, name: SplitName) -> Split:
        return FileSplit(self.root, list_classes(self.root), self.names[PICTURES[name]])


def drop_repeats(root: Path, names: Sequence[str]) -> list[str]:
    """Return the names of the files that differ from all before them: some drawings lie in two
    folders."""
    first: dict[bytes, str] = {}
    for name in names:
        first.setdefault(sha256((root / name).read_bytes()).digest(), name)
    return list(first.values())


@dataclass(frozen=True)
class JoinedTexts(Split):
    """Texts of one section, joined."""

    texts: Sequence[str]
    sections: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        text = np.array([self.texts[index] for index in indices], f"<U{WIDEST}")
        return Batch({"text": text}, {"section": self.sections[indices]})


class LongTopics(TopicsForMiniLM):
    """Sections of texts that are longer than 128 tokens, of which the first 128 are read."""

    ranges: ClassVar = {"batch": (1, 64), "sequence": (1, TOKENS)}
    transfer: ClassVar[bool] = False

    @property
    def preprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # as in `Topics`
        return {"text": [Tokenize(file=minilm.find_folder() / "tokenizer.json", length=TOKENS)]}

    def split(self, name: SplitName) -> JoinedTexts:  # type: ignore[override]  # texts of another kind
        return join_texts(super().split(name), TEXTS[name])


def join_texts(texts: Texts, chosen: slice) -> JoinedTexts:
    """Return texts of ``JOINED`` texts of one section each."""
    assert texts.sections is not None, "only transfer has no sections"
    joined: list[tuple[str, int]] = []
    for section in np.unique(texts.sections).tolist():
        own = [texts.texts[row] for row in np.flatnonzero(texts.sections == section)]
        starts = range(0, len(own) - JOINED + 1, JOINED)
        joined += [(" ".join(own[start : start + JOINED]), section) for start in starts]
    kept = joined[chosen]
    return JoinedTexts([text for text, _ in kept], np.array([label for _, label in kept], np.int64))

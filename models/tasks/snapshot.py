"""The snapshot of Debian's descriptions that topics are learned from: two files, with the same
bytes for the same package lists."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from attar.models.tasks.debian import Package
from attar.models.tasks.unpacking import read_json_lines, report_damage
from attar.pipeline.core.errors import StageError

TEXTS, TOKENIZER = "topics.jsonl.gz", "tokenizer.json"
TEST, VALIDATION = 20, 8  # of a hundred source packages
LONGEST = 300  # characters; a longer text ends with its last whole word
VOCABULARY = 8192


class Text(NamedTuple):
    """A text. Transfer texts have no section."""

    split: str
    text: str
    section: str | None


def choose_split(source: str, test: int = TEST, validation: int = VALIDATION) -> str:
    """Return the split by the hash of the source package's name, so that all packages of one source
    are in one split, in any release. ``test`` and ``validation`` are percentages of the sources."""
    bucket = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 100
    return "test" if bucket < test else "validation" if bucket < test + validation else "train"


def select_texts(packages: Sequence[Package], sections: Sequence[str]) -> list[Text]:
    """Return first lines with their section, and long descriptions of training sources as transfer.
    Each text occurs once.

    Texts that differ only in capitals are equal. Of equal texts in two splits, test keeps it before
    validation, validation before train, and train before transfer: a training text may be dropped,
    but a measured text must be unknown.
    """
    order = ("test", "validation", "train")
    labelled: list[Text] = []
    unlabelled: list[Text] = []
    for package in packages:
        if package.section in sections:
            split = choose_split(package.source)
            labelled.append(Text(split, cut_text(package.short), package.section))
            if split == "train":
                unlabelled.append(Text("transfer", cut_text(package.long), None))
    labelled.sort(key=lambda text: order.index(text.split))  # stable: by name inside a split
    return list(drop_duplicates([*labelled, *unlabelled]))


def cut_text(text: str) -> str:
    """Return at most ``LONGEST`` characters, and whole words if there is more than one."""
    if len(text) <= LONGEST:
        return text
    return text[: LONGEST + 1].rpartition(" ")[0] or text[:LONGEST]


def drop_duplicates(texts: Iterable[Text]) -> Iterator[Text]:
    seen = {""}
    for text in texts:
        key = text.text.casefold()
        if key not in seen:
            seen.add(key)
            yield text


def write_snapshot(folder: Path, texts: Sequence[Text], sections: Sequence[str]) -> None:
    """Write both files to ``folder``. Raises StageError if a section has no training text, since
    its class cannot be learned."""
    lacking = sorted(set(sections) - {text.section for text in texts if text.split == "train"})
    if lacking:
        raise StageError(
            f"the package lists hold nothing to train on in the sections {', '.join(lacking)}; "
            "fetch where /etc/apt lists a whole release of Debian, its component main at least"
        )
    train_tokenizer(
        folder / TOKENIZER, [text.text for text in texts if text.split in ("train", "transfer")]
    )
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    (folder / TEXTS).write_bytes(gzip.compress(lines.encode(), mtime=0))


def train_tokenizer(
    file: Path,
    learned: Iterable[str],
    size: int = VOCABULARY,
    special: Sequence[str] = ("[PAD]",),
    is_written: bool = False,
) -> None:
    """Train a byte-level BPE vocabulary on the training texts (Sennrich et al. 2016,
    arXiv:1508.07909); ``special`` are its first tokens.

    It is lower-case, unless texts are also decoded (``is_written``). Not WordPiece: the library
    numbers its continuations in an order that differs between processes.
    """
    try:
        from tokenizers import Tokenizer, decoders, normalizers
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer
    except ModuleNotFoundError as error:
        raise StageError(
            "a vocabulary is made with the library tokenizers: pip install 'attar[serve-text]'"
        ) from error
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    if is_written:
        tokenizer.normalizer = normalizers.NFC()
        without_prefix = decoders.Strip(" ", 1, 0)
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), without_prefix])
    else:
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(learned, trainer)
    tokenizer.save(str(file))


def read_texts(file: Path) -> list[Text]:
    """Read the texts of a snapshot. Raises StageError for any other file."""
    with report_damage(file):
        return [Text(*fields) for fields in read_json_lines(file)]

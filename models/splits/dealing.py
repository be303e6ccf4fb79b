"""Deals samples to train, validation and test, so that none of the measured ones is known."""

from __future__ import annotations

import csv
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from attar.models.task import SplitName
from attar.pipeline.core.errors import StageError, suggest_name

SHARES: Mapping[SplitName, float] = {"test": 0.2, "validation": 0.1}
"""Of the samples; the others are trained on."""
FEWEST_GROUPS = 3
"""A class with fewer different samples is trained on alone: there is one for each split, or
none is measured."""
HEADER = ["sample", "split"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Rows = npt.NDArray[np.int64]


def hash_key(content: bytes) -> bytes:
    """Return the 16 bytes by which equal samples, or groups, are equal."""
    return hashlib.blake2b(content, digest_size=16).digest()


def hash_text(text: str) -> bytes:
    """Return the key of a text. Case, accents and repeated spaces do not count: the vocabulary
    that ``attar new --from texts`` makes has neither case nor accents."""
    letters = unicodedata.normalize("NFD", text.lower())
    plain = "".join(each for each in letters if unicodedata.category(each) != "Mn")
    return hash_key(" ".join(plain.split()).encode())


def deal_samples(keys: Sequence[bytes], labels: npt.ArrayLike) -> dict[SplitName, Rows]:
    """Return the rows of each split, in ascending order. Rows with the same key come to the same
    split.

    ``keys`` are what samples have in common: their content, so that copies stay together, or the
    name of their group. ``labels`` are integers ``[N]``: each class is dealt by itself in the
    shares of ``SHARES``, and so that all splits have some of it; a class with fewer than three keys
    is only trained on. The hashes of the keys decide the order, not a random number.
    """
    hashes = np.array([hash_key(key) for key in keys], "S16")
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    sizes, label = np.bincount(group), np.asarray(labels)[first]  # of each group
    owner = np.full(len(sizes), "train", "U10")
    for each in np.unique(label).tolist():
        groups = np.flatnonzero(label == each)
        if len(groups) < FEWEST_GROUPS:
            continue
        total = int(sizes[groups].sum())
        for kept, (name, share) in zip((2, 1), SHARES.items(), strict=True):
            free = groups[owner[groups] == "train"]
            owner[choose_groups(free, sizes, share * total, kept)] = name
    names: tuple[SplitName, ...] = ("train", *SHARES)
    return {name: np.flatnonzero(owner[group] == name) for name in names}


def choose_groups(groups: Rows, sizes: Rows, samples: float, kept: int) -> list[int]:
    """Return groups in their order that fit into this number of samples; the smallest if none
    does. The ``kept`` largest are not chosen."""
    by_size = np.argsort(sizes[groups], kind="stable")
    free = groups[np.sort(by_size[: len(groups) - kept])]
    chosen: list[int] = []
    left = round(samples)
    for group, size in zip(free.tolist(), sizes[free].tolist(), strict=True):
        if size <= left:
            chosen.append(group)
            left -= size
    return chosen or [int(groups[by_size[0]])]


def join_keys(ones: Sequence[bytes], others: Sequence[bytes]) -> list[bytes]:
    """Return a key for each row, such that rows are equal that share one of two keys, directly or
    through other rows: copies of one sample in two groups join these groups."""
    parent: dict[tuple[int, bytes], tuple[int, bytes]] = {}

    def find(node: tuple[int, bytes]) -> tuple[int, bytes]:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent[above]
        return node

    for one, other in zip(ones, others, strict=True):
        low, high = sorted((find((0, one)), find((1, other))))
        parent[high] = low
    return [find((0, one))[1] for one in ones]


def write_split_list(file: Path, samples: Sequence[str], dealt: Mapping[SplitName, Rows]) -> None:
    """Write a CSV file that names the split of each sample."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(HEADER)
        for name, rows in dealt.items():
            writer.writerows([samples[row], name] for row in rows.tolist())


def read_split_list(file: Path, name: SplitName) -> list[str]:
    """Return the samples of one split from a file that ``attar new --from`` wrote. Raises
    StageError for any other file, for a line that names no split, and for a sample of two."""
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        if header != HEADER:
            raise StageError(
                f"{file} begins with {header}, not with {','.join(HEADER)}; make it again with "
                "`attar new --from`"
            )
        listed: list[str] = []
        owners: dict[str, str] = {}
        for row in filter(None, rows):  # a blank line has no cells
            check_row(file, rows.line_num, row)
            sample, split = row
            if (owner := owners.setdefault(sample, split)) != split:
                raise StageError(
                    f"{file}, line {rows.line_num}: {sample!r} is in {split}, and before in "
                    f"{owner}; leave it in one of them"
                )
            listed += [sample] if split == name else []
        return listed


def check_row(file: Path, line: int, row: Sequence[str]) -> None:
    if len(row) != len(HEADER):
        raise StageError(
            f"{file}, line {line}: {len(row)} values, not a sample and its split; correct it"
        )
    if row[1] not in SPLITS:
        raise StageError(
            f"{file}, line {line}: {row[1]!r} is no split: {suggest_name(row[1], SPLITS)}"
        )

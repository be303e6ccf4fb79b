"""What ``attar new --from`` finds in a user's data, and what it assumes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.models.splits.dealing import FEWEST_GROUPS, Rows, deal_samples
from attar.models.task import SplitName
from attar.pipeline.core.errors import RecipeError

EXAMPLES = 5
Constant = str | int | Path | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Findings:
    """``samples`` are the usable ones, by the names that the splits know them by; ``splits`` are
    their rows. ``constants`` replace those of the same name in the project's files."""

    samples: Sequence[str]
    splits: Mapping[SplitName, Rows]
    constants: Mapping[str, Constant]
    assumptions: Sequence[str]
    """One sentence each."""
    learned_texts: Sequence[str] = ()
    """Of the training samples, if a vocabulary has to be made of them."""


@dataclass(frozen=True)
class Skipped:
    """Samples that are left out, with the reason."""

    name: str
    reason: str


def check_classes(where: Path, classes: Sequence[str]) -> None:
    """Raises RecipeError unless there are two classes or more."""
    if len(classes) < 2:
        got = f"the one class {classes[0]!r}" if classes else "no class"
        raise RecipeError(f"{where} has {got}; a classifier needs samples of two or more")


def deal_classes(
    where: Path, keys: Sequence[bytes], labels: npt.NDArray[np.int64]
) -> dict[SplitName, Rows]:
    """Deal the samples. Raises RecipeError if a split has none."""
    dealt = deal_samples(keys, labels)
    if not all(len(rows) for rows in dealt.values()):
        raise RecipeError(
            f"{where} has too few different samples, or groups of them: each split needs one, so "
            f"a class {FEWEST_GROUPS}; add some, at least ten a class"
        )
    return dealt


def describe_classes(
    classes: Sequence[str], labels: npt.NDArray[np.int64], splits: Mapping[SplitName, Rows]
) -> list[str]:
    """Return the number of samples of each class and split, and which classes are not measured."""
    counts = {
        name: np.bincount(labels[rows], minlength=len(classes)) for name, rows in splits.items()
    }
    totals = np.bincount(labels, minlength=len(classes))
    order = np.argsort(-totals, kind="stable")
    listed = ", ".join(f"{classes[number]} {totals[number]}" for number in order[:20])
    more = f" and {len(order) - 20} more" if len(order) > 20 else ""
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
    lines = [
        f"{len(labels)} samples of {len(classes)} classes: {listed}{more}.",
        f"Splits: {sizes}.",
    ]
    if totals.max() > 5 * totals.min():
        lines.append(
            f"The classes are unbalanced, {totals.max()} to {totals.min()}: accuracy says little "
            "of the rare ones."
        )
    for name in ("train", "test"):
        lacking = [each for each, count in zip(classes, counts[name], strict=True) if not count]
        if lacking:
            lines.append(f"No sample in {name}, as there are too few: {list_some(lacking)}.")
    return lines


def describe_copies(keys: Sequence[bytes]) -> list[str]:
    copies = len(keys) - len(set(keys))
    return [f"Copies of other samples: {copies}; all copies are in one split."] if copies else []


def describe_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """Return how many samples are left out, with some names for each reason."""
    names: dict[str, list[str]] = {}
    for each in skipped:
        names.setdefault(each.reason, []).append(each.name)
    return [f"Left out, {len(own)}: {why}: {list_some(own)}." for why, own in names.items()]


def list_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
    return ", ".join(names[:EXAMPLES]) + more

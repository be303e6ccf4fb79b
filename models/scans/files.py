"""Scans folders whose subfolders are the classes: pictures or text files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import DecodeImage
from attar.models.scans.findings import (
    Constant,
    Findings,
    Skipped,
    check_classes,
    deal_classes,
    describe_classes,
    describe_copies,
    describe_skipped,
)
from attar.models.splits.dealing import hash_key, hash_text
from attar.models.splits.files import list_classes, list_files, read_bytes
from attar.pipeline.core.errors import AttarError, RecipeError
from attar.pipeline.core.progress import report_progress

SIDES = (64, 32, 16)
"""Sizes that pictures are brought to: the largest that most of them have."""
CHECKED = DecodeImage()
ALIKE = (
    "Files that are much alike, such as frames of one film, may be in two splits: where they are, "
    "correct splits.csv by hand."
)
Read = Callable[[bytes], int | str]
"""Returns what a scan keeps of a file. Raises AttarError or UnicodeDecodeError for one that cannot
be used."""


def scan_images(folder: Path) -> Findings:
    """Decode every picture in ``folder/CLASS/`` once. Raises RecipeError for a folder that holds no
    two classes of them."""
    kept, skipped, keys = scan_files(folder, read_side)
    side = choose_side(np.array(list(kept.values()), np.int64))
    shown = (
        f"Pictures are brought to {side} x {side}, in colour; SIDE in task.py and STEM in nets.py."
    )
    found = find_splits(folder, kept, keys, skipped, shown)
    return Findings(
        found.samples,
        found.splits,
        {**found.constants, "SIDE": side, "STEM": max(1, side // 32)},
        found.assumptions,
    )


def scan_text_files(folder: Path) -> Findings:
    """Read every file in ``folder/CLASS/`` as a text. Raises RecipeError as ``scan_images``
    does."""
    kept, skipped, keys = scan_files(folder, read_text)
    found = find_splits(folder, kept, keys, skipped, "Each file is one text, in UTF-8.")
    texts = list(kept.values())
    learned = [str(texts[row]) for row in found.splits["train"].tolist()]
    return Findings(found.samples, found.splits, found.constants, found.assumptions, learned)


def find_splits(
    folder: Path,
    kept: Mapping[str, int | str],
    keys: list[bytes],
    skipped: list[Skipped],
    shown: str,
) -> Findings:
    used = {name.partition("/")[0] for name in kept}
    classes = tuple(name for name in list_classes(folder) if name in used)
    unused = [name for name in list_classes(folder) if name not in used]
    empty = [Skipped(name, "folders without a usable file") for name in unused]
    check_classes(folder, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name.partition("/")[0]] for name in kept], np.int64)
    splits = deal_classes(folder, keys, labels)
    assumptions = [
        "The class of a file is the name of its folder.",
        *describe_classes(classes, labels, splits),
        *describe_copies(keys),
        *describe_skipped([*skipped, *empty]),
        ALIKE,
        shown,
    ]
    constants: dict[str, Constant] = {
        "DATA": folder.absolute(),
        "CLASSES": classes,
        "COUNT": len(classes),
    }
    return Findings(list(kept), splits, constants, assumptions)


def scan_files(folder: Path, read: Read) -> tuple[dict[str, int | str], list[Skipped], list[bytes]]:
    """Return what is kept of each usable file by its name, the others, and the keys of the former.
    Raises RecipeError if there is none."""
    if not folder.is_dir():
        raise RecipeError(f"there is no folder {folder}; name the one whose subfolders are classes")
    names = list_files(folder, list_classes(folder))
    kept: dict[str, int | str] = {}
    skipped, keys = [], []
    for number, name in enumerate(names, start=1):
        report_progress("reading", number, len(names))
        try:
            content = read_bytes(folder / name)
            kept[name] = found = read(content)
        except (AttarError, UnicodeDecodeError) as error:
            skipped.append(Skipped(name, explain(error)))
        else:
            keys.append(hash_text(found) if isinstance(found, str) else hash_key(content))
    if not kept:
        why = f": {describe_skipped(skipped)[0]}" if skipped else ""
        raise RecipeError(
            f"{folder} has no usable file in a subfolder that names its class{why}; expected "
            f"{folder.name}/CLASS/FILE"
        )
    return kept, skipped, keys


def explain(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not in UTF-8"
    reason = str(error).split("; ")[:2][-1]  # an error of a step: what it got; why; what to do
    return re.sub(r" \(\d+ bytes[^)]*\)", "", reason)


def read_side(content: bytes) -> int:
    """Return the shorter side of a picture in pixels. Raises AttarError unless it can be decoded
    whole."""
    pixels = np.empty(1, object)
    pixels[0] = content
    height, width = CHECKED(pixels).shape[1:3]
    return min(int(height), int(width))


def read_text(content: bytes) -> str:
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise AttarError("an empty text")
    return text


def choose_side(sides: npt.NDArray[np.int64]) -> int:
    median = float(np.median(sides))
    return next((side for side in SIDES if side <= median), SIDES[-1])

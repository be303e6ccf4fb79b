"""Checksums: ``SHA256SUMS`` names every file of a bundle, so that no change, loss or addition goes unseen.

A bundle is delivered as a plain copy without what the store wrote beside it: ``facts.json`` and ``record.json`` are passed over
only where they are a store's, and are added files anywhere else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from attar.pipeline.errors import Unfit

SUMS = "SHA256SUMS"
NO_FILE = "not a plain file"
FACTS, RECORD = "facts.json", "record.json"
"""What the store writes into an artifact's folder; see ``attar.pipeline.store``."""


def seal(bundle: Path) -> None:
    """Write the list, in the form that ``sha256sum --check`` reads. Sealing again after a file was added is allowed."""
    lines = [f"{sha256(bundle / name)}  {name}\n" for name in files(bundle)]
    (bundle / SUMS).write_text("".join(lines), encoding="utf-8")


def verify(bundle: Path) -> int:
    """How many files there are, all as they were sealed. Raises Unfit, naming each file that is not."""
    listed = read(bundle / SUMS)
    present = {name: sha256(bundle / name) for name in files(bundle)}
    wrong = [
        *(f"{name} is missing" for name in listed if name not in present),
        *(f"{name} was added" for name in sorted(present.keys() - listed.keys())),
        *(f"{name} was changed" for name in listed if name in present and present[name] != listed[name]),
        *(f"{name} is {NO_FILE}" for name, digest in listed.items() if digest == NO_FILE),
    ]
    if wrong:
        raise Unfit(f"{bundle} is not as it was packaged: {'; '.join(wrong)}. Copy it again, or package it again")
    return len(listed)


def read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise Unfit(f"{path} is missing: not a bundle, or not a whole one; bundles are written by `attar package`")
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        return {name: digest for digest, name in pairs}
    except ValueError as error:
        raise Unfit(f"{path} was changed: it is no list of SHA-256 sums ({error})") from error


def files(bundle: Path) -> list[str]:
    """Everything below, links too: a link out of the bundle would be content that nobody sealed."""
    found = [path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_symlink() or not path.is_dir()]
    outside = {SUMS, FACTS, RECORD} if is_stored(bundle) else {SUMS}
    return sorted(name for name in found if name not in outside)


def is_stored(folder: Path) -> bool:
    """Whether it is a store's artifact: both files are there, and the record holds the facts' own sum."""
    digest = sha256(folder / FACTS)
    if sha256(folder / RECORD) == NO_FILE or digest == NO_FILE:
        return False
    try:
        _, _, recorded = json.loads((folder / RECORD).read_bytes())["files"][FACTS]  # size, time of change, SHA-256
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # no record, so the two are files like any other
    return bool(recorded == digest)


def sha256(path: Path) -> str:
    """Hex digest of a plain file; a link has none, so it is never what was sealed."""
    if path.is_symlink() or not path.is_file():
        return NO_FILE
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Checksums: ``SHA256SUMS`` names every file of a bundle, so that no change, loss or addition goes
unseen.

A bundle is delivered as a plain copy without what the store wrote beside it: ``facts.json`` and
``record.json`` are passed over only where they are a store's, and are added files anywhere else,
and wherever a signature is asked for. A signature (``attar.bundle.signatures``) comes after the
list, so ``SHA256SUMS.sig`` is passed over where it can be one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from attar.pipeline.core.errors import InvalidBundleError

SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
LENGTH = 64
"""Bytes of a signature."""
MOST_BYTES = 2**20
"""Limit on the list, which is read before it is known whose it is: some 10,000 files."""
DELIVER = "`attar run RECIPE -o DIR`"
AGAIN = "Copy it again, or package it again"
DELIVERED = f"A store's own is never signed: use the copy that {DELIVER} makes"
NO_FILE = "not a plain file"
NO_SIGNATURE = f"is no signature, a plain file of {LENGTH} bytes"
Stamp: TypeAlias = frozenset[tuple[str, int, int, int]]
STORED = FACTS, RECORD = "facts.json", "record.json"
"""What the store writes into an artifact's folder; see ``attar.pipeline.store.store``."""


@dataclass(frozen=True)
class Checksums:
    """``SHA256SUMS`` as it was read, once, so that what is verified is what was signed."""

    content: bytes
    sums: Mapping[str, str]
    """Hex digests by the names of the files."""
    signature: bytes | None
    """That lies beside it; nobody has looked whose it is."""
    key: str | None = None
    """Fingerprint of the trusted key whose signature it is, where one was asked for."""

    @property
    def version(self) -> str:
        """Of the content, so that another bundle is another version, whatever its folder is
        called."""
        return hashlib.sha256(self.content).hexdigest()[:12]


def write_checksums(bundle: Path) -> None:
    """Write the list, in the form that ``sha256sum --check`` reads. Sealing again after a file was
    added is allowed."""
    lines = [f"{sha256(bundle / name)}  {name}\n" for name in list_files(bundle)]
    (bundle / SUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(
    bundle: Path, seal: Checksums, take: Callable[[str], str] | None = None
) -> None:
    """Raises InvalidBundleError, naming each file that is not as it was sealed; under a trusted
    key also those that a store wrote.

    ``take``: returns the digest of a file by its name, once for each; ``sha256`` unless given.
    """
    listed, unsigned = seal.sums, STORED if seal.key and is_stored(bundle) else ()
    take = take or (lambda name: sha256(bundle / name))
    present = {name: take(name) for name in [*list_files(bundle), *unsigned]}
    wrong = [
        *(f"{name} is missing" for name in listed if name not in present),
        *(
            f"{name} {NO_SIGNATURE if name == SIGNATURE else 'was added'}"
            for name in sorted(present.keys() - listed.keys())
        ),
        *(
            f"{name} was changed"
            for name in listed
            if name in present and present[name] != listed[name]
        ),
        *(f"{name} is {NO_FILE}" for name, digest in listed.items() if digest == NO_FILE),
    ]
    if wrong:
        raise InvalidBundleError(
            f"{bundle} is not as it was packaged: {'; '.join(wrong)}. "
            f"{DELIVERED if unsigned else AGAIN}"
        )


def read_checksums(bundle: Path) -> Checksums:
    """Raises InvalidBundleError for a folder without the list, or whose list cannot be read, is a
    link, or names a file twice."""
    path = bundle / SUMS
    if path.is_symlink():
        raise InvalidBundleError(
            f"{path} is a link, to what anybody may change; copy the file itself into the bundle"
        )
    if not path.is_file():
        raise InvalidBundleError(
            f"{path} is missing: not a bundle, or not a whole one; bundles are written by `attar "
            "package`"
        )
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InvalidBundleError(
            f"{path} was changed: it has more than {MOST_BYTES:,} bytes, which no bundle's list "
            f"needs; {AGAIN.lower()}"
        )
    try:
        pairs = [line.split("  ", 1) for line in content.decode().splitlines()]
        sums = {name: digest for digest, name in pairs}
    except ValueError as error:
        raise InvalidBundleError(
            f"{path} was changed: it is no list of SHA-256 sums ({error})"
        ) from error
    if len(sums) != len(pairs):
        raise InvalidBundleError(
            f"{path} was changed: it names {len(sums)} files in {len(pairs)} lines; copy it again, "
            "or package it again"
        )
    return Checksums(content, sums, read_signature(bundle))


def list_files(bundle: Path) -> list[str]:
    """Everything below, links too: a link out of the bundle would be content that nobody sealed.
    Folders only in a signature's place."""
    signature = [bundle / SIGNATURE] if is_folder(bundle / SIGNATURE) else []
    below = [*list_below(bundle), *signature]
    found = [path.relative_to(bundle).as_posix() for path in below]
    outside = {
        SUMS,
        *(STORED if is_stored(bundle) else ()),
        *((SIGNATURE,) if read_signature(bundle) else ()),
    }
    return sorted(name for name in found if name not in outside)


def list_below(folder: Path) -> list[Path]:
    """Everything below but folders."""
    return [path for path in folder.rglob("*") if not is_folder(path)]


def read_stamp(folder: Path) -> Stamp:
    """Return name, inode, size and time of change of everything below, which show a change without
    reading."""
    found = []
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # it went away while the folder was read
            stat = file.stat()
            found.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def read_signature(bundle: Path) -> bytes | None:
    """What may be one, a plain file of so many bytes; whose it is, if anybody's, is not looked
    at."""
    path = bundle / SIGNATURE
    if path.is_symlink() or not path.is_file() or path.stat().st_size != LENGTH:
        return None
    return path.read_bytes()


def is_stored(folder: Path) -> bool:
    """Whether it is a store's artifact: both files are there, and the record holds the facts' own
    sum."""
    digest = sha256(folder / FACTS)
    if sha256(folder / RECORD) == NO_FILE or digest == NO_FILE:
        return False
    try:
        _, _, recorded = json.loads((folder / RECORD).read_bytes())["files"][
            FACTS
        ]  # size, time of change, SHA-256
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # no record, so the two are files like any other
    return bool(recorded == digest)


def sha256(path: Path) -> str:
    """Hex digest of a plain file; a link has none, so it is never what was sealed."""
    if path.is_symlink() or not path.is_file():
        return NO_FILE
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

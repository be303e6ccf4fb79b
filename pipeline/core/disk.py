"""Files of a store: their digests, sizes and JSON, and what to say if the disk fails."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import StoreError

FULL = {errno.ENOSPC, errno.EDQUOT}
"""Errors of a disk that has no space left, for all or for this user."""
PIECE = 2**18
"""Number of bytes that are read and hashed at a time."""
PROBED = 2**14
"""Number of bytes that a disk with any space left takes."""


@contextmanager
def explain_disk_errors(folder: Path, option: str = "--store") -> Iterator[None]:
    """Turn OSErrors of a folder into messages that say what to do; ``option`` names another
    folder."""
    try:
        yield
    except OSError as error:
        remedy = "free some space or choose" if error.errno in FULL else "choose"
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}; {remedy} another with {option}"
        ) from error


def check_writable(folder: Path, option: str) -> None:
    """Raises StoreError unless this process may write into a folder, or make it."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    with explain_disk_errors(folder, option):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


@contextmanager
def explain_full_disk(folder: Path, store: Path) -> Iterator[None]:
    """Turn any error into a StoreError if the disk of ``folder`` takes no file any more: libraries
    that write files themselves call it an invalid protobuf, or a wrong position."""
    try:
        yield
    except Exception:
        with explain_disk_errors(store):
            write_probe(folder)
        raise


def write_probe(folder: Path) -> None:
    """Raise OSError if no small file can be written there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PROBED))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def lock_folder(folder: Path, *, alone: bool, wait: bool = False) -> Iterator[None]:
    """Share a folder with other processes; with ``alone``, exclude them. If that is not possible at
    once, ``wait`` until it is, or raise StoreError."""
    with explain_disk_errors(folder):
        opened = os.open(folder, os.O_RDONLY)
    try:
        at_once = 0 if wait else fcntl.LOCK_NB
        fcntl.flock(opened, at_once | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
    except BlockingIOError as error:
        os.close(opened)
        raise StoreError(
            f"{folder} is in use by another process; try again when it has finished"
        ) from error
    try:
        yield
    finally:
        os.close(opened)  # which releases the lock


def encode_json(value: Any, indent: int | None = None) -> str:
    """Return JSON in one canonical form. Raises StoreError for NaN, infinity and types that JSON
    lacks."""
    try:
        return json.dumps(value, sort_keys=True, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"facts must be finite JSON values: {error}") from error


def read_json(path: Path) -> Any:
    """Return the value in a file; None if it is missing or damaged: for what only saves time."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file, which readers see as it was or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def measure_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def compute_digest(path: Path) -> str:
    """Return the SHA-256 of a file. For small files ``hashlib.file_digest`` takes twice as long."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()

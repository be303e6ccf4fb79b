"""The kernels that TensorRT-RTX compiles for the shapes that an engine is asked, kept for the next
process that opens it: its runtime cache.

They are native code, as an engine is. So they lie in this user's own cache folder, and what others
could have written there is not read. TensorRT-RTX uses none that is for another GPU or release.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import warnings
from pathlib import Path
from typing import Any

from attar.models.splits.cache import find_cache_folder

FOREIGN = stat.S_IWGRP | stat.S_IWOTH
"""Permissions with which others may write."""


def find_kernel_file(engine: Path) -> Path:
    """Return where the kernels of an engine with this content are kept."""
    with engine.open("rb") as file:
        return (
            find_cache_folder() / "tensorrt-rtx" / hashlib.file_digest(file, "sha256").hexdigest()
        )


class KernelCache:
    """The kernels of one engine."""

    def __init__(self, config: Any, file: Path) -> None:
        """Give the kernels of the file to an engine's runtime configuration."""
        self.file, self.held = file, read_own_file(file)
        self.cache = config.create_runtime_cache()
        if self.held:
            self.cache.deserialize(self.held)  # it takes none that does not fit, and starts empty
        config.set_runtime_cache(self.cache)

    def save(self) -> None:
        """Keep what was compiled meanwhile. Warns where the folder cannot be written."""
        content = bytes(self.cache.serialize())
        if content == self.held:
            return
        try:
            write_own_file(self.file, content)
        except OSError as error:
            warnings.warn(
                f"the kernels that TensorRT-RTX compiled are not kept in {self.file.parent}: "
                f"{error}; each process compiles them anew; set XDG_CACHE_HOME to another folder",
                stacklevel=2,
            )
        self.held = content


def read_own_file(file: Path) -> bytes:
    """Return the content of a file that this user alone can write; nothing of any other."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(descriptor)
        is_own = found.st_uid == os.geteuid() and not found.st_mode & FOREIGN
        return opened.read() if is_own and stat.S_ISREG(found.st_mode) else b""


def write_own_file(file: Path, content: bytes) -> None:
    """Write a file whole or not at all, for this user alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as beside:
        fresh = Path(beside) / file.name
        fresh.touch(mode=0o600)
        fresh.write_bytes(content)
        fresh.replace(file)

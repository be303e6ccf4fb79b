"""Files that are made of a user's data once, so that samples can be read by index: in the cache
folder of the user."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from attar.pipeline.core.errors import StageError


def find_cache_folder() -> Path:
    """Return attar's folder in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attar"


def make_cached_file(source: Path, kind: str, write: Callable[[Path], None]) -> Path:
    """Return the file that ``write`` makes of ``source``. It is written once for each state of the
    source, which is told by its place, size, times and inode.

    ``kind`` names the folder in the cache and tells formats apart. Raises StageError if the source
    is missing, or changes meanwhile.
    """
    state = describe_state(source)
    file = find_cache_folder() / kind / hashlib.sha256(state.encode()).hexdigest()[:32]
    if file.is_file():
        return file
    try:
        return write_once(source, state, file, write)
    except OSError as error:
        raise StageError(
            f"{source} cannot be prepared in {file.parent}: {error.strerror or error}; make room "
            "there, or set XDG_CACHE_HOME to another folder"
        ) from error


def write_once(source: Path, state: str, file: Path, write: Callable[[Path], None]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as beside:
        made = Path(beside) / "made"
        write(made)
        if describe_state(source) != state:
            raise StageError(f"{source} changed while it was read; run again when it is whole")
        made.replace(file)  # two processes may make it at once: both have the same content
    return file


def describe_state(source: Path) -> str:
    if not source.is_file():
        raise StageError(f"there is no file {source}; correct its path in Task.split")
    stat = source.stat()
    times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
    return f"{source.absolute()} {stat.st_size} {times} {stat.st_ino}"

"""The limit of open files: sockets and mapped files take a descriptor each."""

from __future__ import annotations

import resource
from pathlib import Path

from attar.pipeline.core.errors import StageError

RESERVED_FILES = 64
"""Descriptors that are left for what else a process opens."""


def raise_limit(wanted: int) -> int:
    """Return how many files may be open from now on: ``wanted``, or as many as the hard limit
    allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return raised


def reserve_files(count: int, what: str) -> None:
    """Raise the limit so that ``count`` more files can be open. Raises StageError if the hard limit
    is under that; ``what`` says what the files are."""
    wanted = len(list(Path("/dev/fd").iterdir())) + count + RESERVED_FILES
    limit = raise_limit(wanted)
    if limit < wanted:
        raise StageError(
            f"{count} files of {what} must be open at once, so this process needs {wanted} open "
            f"files, and may have {limit}; raise the hard limit (ulimit -Hn {wanted}, or --ulimit "
            f"nofile={wanted} of docker run), or read fewer views or samples"
        )

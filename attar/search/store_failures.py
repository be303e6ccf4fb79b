"""Failures of the store, and of disks: they say nothing of a variant, and end a search, which goes
on later."""

from __future__ import annotations

import errno
import os

from attar.pipeline.core.errors import StoreError
from attar.pipeline.run import Record

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""A disk that is full, whose quota is used up, that cannot be written, or that is broken."""
DISK_WORDS = tuple(map(os.strerror, DISK_ERRORS))
"""What the system calls them: libraries that write files themselves, and other processes, pass on
nothing but words."""


def find_store_failure(error: BaseException | None) -> BaseException | None:
    """Return the failure of the store, or of a disk, that led to an error; None if something else
    did."""
    while error is not None and not is_store_failure(error):
        error = error.__cause__
    return error


def is_store_failure(error: BaseException) -> bool:
    if isinstance(error, StoreError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in DISK_ERRORS
    return any(words in str(error) for words in DISK_WORDS)


def check_store_failure(record: Record) -> None:
    """Raises StoreError if a slot broke because the store or a disk failed."""
    failure = find_store_failure(record.cause)
    if failure is not None:
        raise StoreError(record.error) from failure

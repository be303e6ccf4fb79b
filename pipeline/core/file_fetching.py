"""Files of an artifact that are fetched when a stage reads them.

The artifact of a class that is ``fetched_by_file`` may have only some of its files at hand. Its
methods name the files that they are about to read, and the store that the stage is run with fetches
those that are not there. Where no store is set, as in a child process, all files are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

Fetch = Callable[[Path, str], None]
FETCH: ContextVar[Fetch | None] = ContextVar("fetch", default=None)


def fetch_files(root: Path, pattern: str) -> None:
    """Have the files of the artifact in ``root`` at hand whose names match ``pattern``, such as
    ``test.clean.*``. Raises StoreError."""
    fetch = FETCH.get()
    if fetch is not None:
        fetch(root, pattern)


@contextmanager
def use_fetch(fetch: Fetch) -> Iterator[None]:
    token = FETCH.set(fetch)
    try:
        yield
    finally:
        FETCH.reset(token)

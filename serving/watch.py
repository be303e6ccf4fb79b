"""Watch: bundles that change in their folders are loaded anew, once they are whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from attar.pipeline.core.errors import Unfit
from attar.serving.errors import NotFound
from attar.serving.repository import Repository

Stamp: TypeAlias = frozenset[tuple[str, int, int, int]]


def stamp(paths: Sequence[Path]) -> Stamp:
    """Name, inode, size and time of change of every file: what tells of a change without reading anything."""
    found = []
    for path in paths:
        for file in path.rglob("*"):
            with suppress(FileNotFoundError):  # it went away while the folder was read
                stat = file.stat()
                found.append((str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


async def watch(repository: Repository, seconds: float) -> None:
    """Look for ever. A bundle that is not fit, as one that is still being copied, is tried again when it has changed again; what
    was served before it still is, as is one whose folder went away."""
    seen = await asyncio.to_thread(stamps, repository)
    while True:
        await asyncio.sleep(seconds)
        now = await asyncio.to_thread(stamps, repository)
        for name in [name for name in now if now[name] != seen.get(name)]:
            with suppress(Unfit, NotFound):  # the repository tells of it
                await repository.load(name)
        seen = now


def stamps(repository: Repository) -> dict[str, Stamp]:
    made = {}
    for name in repository.sources.names():
        with suppress(NotFound):
            made[name] = stamp(repository.sources.paths(name))
    return made

"""Memory: how much this process may have, read without any heavy library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attar.pipeline.keys.machine import read_text

FILES = ("memory.max", "memory.limit_in_bytes")
"""Of a cgroup of version 2, and of version 1, that hold its limit."""


def read_memory_limit(root: Path = Path("/")) -> int:
    """Bytes: what its cgroups allow, and no more than the machine has. ``root`` is where /proc and
    /sys are."""
    return min(
        [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *list_cgroup_limits(root)]
    )


def list_cgroup_limits(root: Path) -> Iterator[int]:
    """Of each cgroup of this process, and each one above it (cgroups(7); the kernel's documents
    ``cgroup-v2`` and ``cgroup-v1/memory``). Where a container sees only its own part of the tree,
    that part's root is its limit."""
    top = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        controllers, colon, path = line.partition(":")[2].partition(":")
        if not colon or (controllers and "memory" not in controllers.split(",")):
            continue
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if ".." not in part.parts:
                yield from read_limit(top / ("memory" if controllers else "") / part)


def read_limit(group: Path) -> Iterator[int]:
    """Nothing where there is no limit."""
    for name in FILES:
        limit_text = read_text(group / name).strip()
        if limit_text.isascii() and limit_text.isdigit():
            yield int(limit_text)

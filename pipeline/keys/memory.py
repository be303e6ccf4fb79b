"""Memory: the limit of this process, read without any heavy library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attar.pipeline.keys.machine import read_text

FILES = ("memory.max", "memory.limit_in_bytes")
"""Files with the limit of a cgroup, of version 2 and of version 1."""


def read_memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that its cgroups allow, at most the machine's memory. ``root`` is the parent
    of /proc and /sys."""
    return min(
        [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *list_cgroup_limits(root)]
    )


def list_cgroup_limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's cgroups and of those above them (cgroups(7); the kernel's
    documents ``cgroup-v2`` and ``cgroup-v1/memory``). In a container that sees only its part of the
    tree, the root of that part has the limit."""
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
    """Yield the limit of a cgroup, if it has one."""
    for name in FILES:
        limit_text = read_text(group / name).strip()
        if limit_text.isascii() and limit_text.isdigit():
            yield int(limit_text)

"""Machine: what a result that is only good here depends on, read without any heavy library."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

PERIOD = "100000"
"""Microseconds; the kernel's default."""
NUMBER = re.compile(r"[1-9][0-9]{0,18}")


@cache
def describe_machine() -> dict[str, Any]:
    """CPU model and flags, cores that this process may use, GPUs and their driver, system and
    Python version."""
    cpu = read_text(Path("/proc/cpuinfo"))
    return {
        "cpu": find_field(cpu, r"model name\s*:\s*(.+)")
        or platform.processor()
        or platform.machine(),
        "flags": hashlib.sha256(
            find_field(cpu, r"(?:flags|Features)\s*:\s*(.+)").encode()
        ).hexdigest()[:32],
        "cores": count_cores(),
        "gpu": ", ".join(list_gpus()) or "none",
        "driver": read_driver_version() or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def count_cores(root: Path = Path("/")) -> int:
    """How many threads this process can keep busy: the CPUs that it may run on, and no more than
    its cgroups' quota pays for.

    A quota is rounded down, to 1 at least, as in Rust's ``available_parallelism`` (the JVM and Go
    round it up): one thread more than is paid for, and the kernel stops them all for the rest of
    each period. ``root`` is where /proc and /sys are.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([allowed, *list_quotas(root)]))


def list_quotas(root: Path) -> Iterator[int]:
    """Whole CPUs' worth of time that each cgroup of this process, or one above it, may use
    (cgroups(7); the kernel's documents ``cgroup-v2`` and ``sched-bwc``). Where a container sees
    only its own part of the tree, that part's root is its limit."""
    top = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        controllers, colon, path = line.partition(":")[2].partition(":")
        if not colon or (controllers and "cpu" not in controllers.split(",")):
            continue
        bases = (
            [top / controllers, top / "cpu"] if controllers else [top]
        )  # cpu: the kernel may list them in another order
        inside = Path(path.lstrip("/"))
        for group in [
            base / part
            for base in bases
            for part in (inside, *inside.parents)
            if ".." not in part.parts
        ]:
            if (quota := read_quota(group)) is not None:
                yield quota


def read_quota(group: Path) -> int | None:
    """Its quota by its period, of version 2 or 1; None where there is no limit.

    A quota alone is of the kernel's own period. What is no number limits nothing: "max", "-1", and
    whatever else a container runtime that is no kernel writes there.
    """
    words = read_text(group / "cpu.max").split()
    words = words or [
        *read_text(group / "cpu.cfs_quota_us").split(),
        *read_text(group / "cpu.cfs_period_us").split(),
    ]
    quota, period = [*words, PERIOD][:2] if words else ("max", PERIOD)
    if not (NUMBER.fullmatch(quota) and NUMBER.fullmatch(period)):
        return None
    return int(quota) // int(period)


def read_text(file: Path) -> str:
    """What the kernel says in a file; nothing where there is none, or where it may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return ""


def list_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the kernel driver knows."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [find_field(read_text(path), r"Model:\s*(.+)") for path in found]


def read_driver_version() -> str:
    return find_field(
        read_text(Path("/proc/driver/nvidia/version")), r"Kernel Module\s+(?:for \S+\s+)?(\S+)"
    )


def find_field(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[1].strip() if match else ""

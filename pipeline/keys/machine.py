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


@cache
def describe() -> dict[str, Any]:
    """CPU model and flags, cores that this process may use, GPUs and their driver, system and Python version."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return {
        "cpu": field(cpu, r"model name\s*:\s*(.+)") or platform.processor() or platform.machine(),
        "flags": hashlib.sha256(field(cpu, r"(?:flags|Features)\s*:\s*(.+)").encode()).hexdigest()[:32],
        "cores": cores(),
        "gpu": ", ".join(gpus()) or "none",
        "driver": driver() or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores(root: Path = Path("/")) -> int:
    """How many threads this process can keep busy: the CPUs that it may run on, and no more than its cgroups' quota pays for.

    A quota is rounded down, to 1 at least, as in Rust's ``available_parallelism`` (the JVM and Go round it up): one thread more
    than is paid for, and the kernel stops them all for the rest of each period. ``root`` is where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in quotas(root))]))


def quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that each cgroup of this process, or one above it, may use (cgroups(7); the kernel's documents
    ``cgroup-v2`` and ``sched-bwc``). Where a container sees only its own part of the tree, that part's root is its limit."""
    listed, top = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listed.read_text().splitlines() if listed.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base, inside = top / controllers, Path(path.lstrip("/"))
        base = base if base.exists() else top / "cpu"  # a link: the kernel may list them in another order than they are mounted
        for group in [base / part for part in (inside, *inside.parents) if ".." not in part.parts]:
            if quota := bandwidth(group):
                yield quota


def bandwidth(group: Path) -> float | None:
    """Its quota by its period, of version 2 or 1; None where there is no limit."""
    found = [group / "cpu.max"] if (group / "cpu.max").exists() else [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
    if not all(file.exists() for file in found):
        return None
    quota, period = " ".join(file.read_text() for file in found).split()
    return None if quota in ("max", "-1") else int(quota) / int(period)


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the kernel driver knows."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [field(path.read_text(), r"Model:\s*(.+)") for path in found]


def driver() -> str:
    path = Path("/proc/driver/nvidia/version")
    return field(path.read_text(), r"Kernel Module\s+(?:for \S+\s+)?(\S+)") if path.exists() else ""


def field(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[1].strip() if match else ""

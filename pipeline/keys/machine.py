"""Machine: properties that a machine-bound result depends on, read without any heavy library."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Iterator
from ctypes import CDLL, byref, c_uint, c_void_p, create_string_buffer
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

PERIOD = "100000"
"""Period of a CPU quota in microseconds: the kernel's default."""
NUMBER = re.compile(r"[1-9][0-9]{0,18}")


@cache
def describe_machine() -> dict[str, Any]:
    """Return CPU model and flags, usable cores, GPUs and their driver, system and Python
    version."""
    cpu = read_text(Path("/proc/cpuinfo"))
    model = find_field(cpu, r"model name\s*:\s*(.+)")
    flags = find_field(cpu, r"(?:flags|Features)\s*:\s*(.+)")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "flags": hashlib.sha256(flags.encode()).hexdigest()[:32],
        "cores": count_cores(),
        "gpu": ", ".join(list_gpus()) or "none",
        "driver": read_driver_version() or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def count_cores(root: Path = Path("/")) -> int:
    """Return how many threads this process can keep busy: the CPUs that it may run on, limited by
    the quota of its cgroups.

    A quota is rounded down, to 1 at least, as in Rust's ``available_parallelism`` (the JVM and Go
    round it up): with one thread more than the quota, the kernel stops all of them for the rest of
    each period. ``root`` is the parent of /proc and /sys.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min([allowed, *list_quotas(root)]))


def list_quotas(root: Path) -> Iterator[int]:
    """Yield the quotas, in whole CPUs, of this process's cgroups and of those above them
    (cgroups(7); the kernel's documents ``cgroup-v2`` and ``sched-bwc``). In a container that sees
    only its part of the tree, the root of that part has the limit."""
    top = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        controllers, colon, path = line.partition(":")[2].partition(":")
        if not colon or (controllers and "cpu" not in controllers.split(",")):
            continue
        # Also "cpu" alone, since the kernel may list the controllers in another order.
        bases = [top / controllers, top / "cpu"] if controllers else [top]
        inside = Path(path.lstrip("/"))
        parts = [part for part in (inside, *inside.parents) if ".." not in part.parts]
        for base, part in product(bases, parts):
            if (quota := read_quota(base / part)) is not None:
                yield quota


def read_quota(group: Path) -> int | None:
    """Return a cgroup's quota divided by its period, of version 2 or 1, or None if there is no
    limit.

    A quota alone uses the kernel's default period. Anything but a number is no limit: "max", "-1",
    and other text of container runtimes.
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
    """Return the text of a kernel's file, or nothing if it is missing or may not be read."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return ""


def list_gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that the kernel driver knows, or else its library."""
    paths = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    found = [find_field(read_text(path), r"Model:\s*(.+)") for path in paths]
    return found or list(ask_management_library()[0])


def read_driver_version() -> str:
    file = Path("/proc/driver/nvidia/version")
    found = find_field(read_text(file), r"Kernel Module\s+(?:for \S+\s+)?(\S+)")
    return found or ask_management_library()[1]


@cache
def ask_management_library() -> tuple[tuple[str, ...], str]:
    """Return the names of the NVIDIA GPUs, and the driver's version, by NVML.

    WSL2 and some sandboxes have no ``/proc/driver/nvidia``. Unlike CUDA, NVML leaves nothing in
    the process that a fork would break (docs.nvidia.com/deploy/nvml-api).
    """
    try:
        library = load_management_library()
    except OSError:
        return (), ""
    text, count, device = create_string_buffer(96), c_uint(), c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(byref(count)):
        return (), ""
    names = []
    for number in range(count.value):
        if not library.nvmlDeviceGetHandleByIndex_v2(c_uint(number), byref(device)):
            library.nvmlDeviceGetName(device, text, c_uint(len(text)))
            names.append(text.value.decode())
    text.value = b""
    library.nvmlSystemGetDriverVersion(text, c_uint(len(text)))
    return tuple(names), text.value.decode()


def load_management_library() -> CDLL:
    return CDLL("libnvidia-ml.so.1")


def find_field(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[1].strip() if match else ""

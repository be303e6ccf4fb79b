"""Machine: what a result that is only good here depends on, read without any heavy library."""

from __future__ import annotations

import hashlib
import os
import platform
import re
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


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

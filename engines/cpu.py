"""The CPU's features that engines depend on, and the thread counts worth trying."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

from attar.pipeline.keys.machine import count_cores

FLAGS = frozenset(
    {
        "fma",
        "avx",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "avx_vnni",
    }
    | {
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
        "asimd",
        "asimddp",
        "asimdhp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
    }
)
"""The features by which kernels are chosen."""
CPUINFO = Path("/proc/cpuinfo")
"""Of Linux alone."""
X86 = frozenset({"x86_64", "AMD64"})
EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Features of x86, with one of which products of bytes are added up in 32 bits."""


def describe_machine() -> dict[str, Any]:
    """Return what a choice of kernels depends on."""
    return {
        "architecture": platform.machine(),
        "cores": count_cores(),
        "flags": sorted(FLAGS & cpu_flags()),
    }


def has_saturating_int8() -> bool:
    """Whether int8 kernels for this CPU add two products in 16 bits, which saturate.

    VPMADDUBSW does, which is all that x86 has without VNNI. Two products of 255 * 127 do not fit;
    two of 255 * 64 do.
    """
    return platform.machine() in X86 and not EXACT & cpu_flags()


def lacks_avx512() -> bool:
    """Whether it is an x86 CPU whose vectors have 256 bits at most.

    ``avx512bw`` is part of what libraries mean by AVX-512.
    """
    return platform.machine() in X86 and "avx512bw" not in cpu_flags()


def list_core_counts(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of all cores."""
    return [*(1 << power for power in range(cores.bit_length()) if 1 << power < cores), cores]


@cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU's features as Linux names them, none elsewhere.

    Linux calls them ``flags`` on x86 and ``Features`` on Arm.
    """
    for line in CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()

"""Memory that a step frees is there for the next one, and the kernel gets it back after the last."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from attar.engines.host_memory import keep_freed_memory


def count_page_faults(size: int) -> int:
    """Return how often the kernel gave a page while four tensors of ``size`` bytes were made, and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    _ = [torch.ones(size, dtype=torch.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_inside_and_given_back_after() -> None:
    size = 40 << 20  # above what glibc keeps by itself
    before = sum(count_page_faults(size) for _ in range(6))
    with keep_freed_memory():
        inside = sum(count_page_faults(size) for _ in range(6))
    assert inside < before * 0.6
    assert count_page_faults(size) > before / 12

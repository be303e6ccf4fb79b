"""The memory of the host: kept by the process while it computes the same step again and again."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Parameters of ``mallopt``, by their numbers in glibc's ``malloc.h``."""
NEVER, DEFAULT_TRIM, DEFAULT_MMAP = -1, 128 * 1024, 65536
"""Values of those parameters: glibc's own, and a threshold that is never reached."""


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, memory that a tensor frees stays with the process, for the next step's tensors.

    glibc gives large blocks back to the kernel, which clears them page by page when the next step
    allocates them again: a third of the time of a step with 4,000 rows of 8,000 logits. Steps of
    many sizes leave gaps, so up to twice the memory is in use. See mallopt(3). Other C libraries
    are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, DEFAULT_MMAP)
        library.mallopt(TRIM_THRESHOLD, DEFAULT_TRIM)
        library.malloc_trim(0)

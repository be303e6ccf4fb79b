"""Measured: runs a script in this process, then notes the most memory that it, or a child of it,
ever had.

``python measured.py NOTE SCRIPT ARGUMENTS...``. What the system tells a parent will not do: there a
child begins with the parent's.
"""

from __future__ import annotations

import json
import re
import resource
import runpy
import sys
from pathlib import Path


def read_peak_memory() -> int:
    """Return bytes."""
    own = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert own is not None
    return 1024 * max(int(own[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


if __name__ == "__main__":
    note, *sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    Path(note).write_text(json.dumps(read_peak_memory()), encoding="utf-8")

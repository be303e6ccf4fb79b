"""How long attar takes to do nothing: importing it, its help, and a recipe whose every slot is made."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import tempfile
import time

BUDGETS = {"import attar": 0.3, "attar --help": 0.3, "attar run digits, all made": 0.5}
"""Seconds of wall time."""
TIMES = 11


def commands(store: str) -> dict[str, list[str]]:
    return {
        "import attar": [sys.executable, "-c", "import attar"],
        "attar --help": [sys.executable, "-m", "attar", "--help"],
        "attar run digits, all made": [sys.executable, "-m", "attar", "run", "digits", "--store", store],
    }


def seconds(command: list[str]) -> float:
    """Median wall time of a process; it must succeed."""
    took = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def main() -> None:
    print(f"{platform.machine()}, Python {platform.python_version()}, median of {TIMES} processes")
    with tempfile.TemporaryDirectory() as store:
        subprocess.run(commands(store)["attar run digits, all made"], check=True, capture_output=True)
        measured = {name: seconds(command) for name, command in commands(store).items()}
    for name, took in measured.items():
        print(f"{name:<28} {took:6.3f} s of {BUDGETS[name]} s")
    late = [name for name, took in measured.items() if took > BUDGETS[name]]
    assert not late, f"over budget: {', '.join(late)}"


if __name__ == "__main__":
    main()

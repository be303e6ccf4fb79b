"""How often a gate passes what is exactly as bad as its limit, and how often what is better.

``python -m benchmarks.gates`` prints and asserts all: score drops and agreements exactly, then the
level of the bootstrap, of the bounds of shares of rows and of the median's on simulated models.
"""

from __future__ import annotations

import datetime
import platform
import time

import numpy as np

from benchmarks.gate_bootstraps import print_bootstraps, print_shares, print_timings
from benchmarks.gate_counts import print_agreements, print_score_drops, print_worst_limits


def main() -> None:
    start = time.perf_counter()
    today = datetime.datetime.now(datetime.UTC)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{today:%d %B %Y}"
    )
    for part in (
        print_score_drops,
        print_worst_limits,
        print_agreements,
        print_bootstraps,
        print_shares,
        print_timings,
    ):
        part()
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

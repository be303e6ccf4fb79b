"""The engine without a server: ``BUNDLE ROWS SECONDS`` prints its samples a second."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.bundle.engines import open_bundle_engines
from attar.serving.load.client import take_turns

if __name__ == "__main__":
    path, rows, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    manifest = bundle.open_verified(path, gated=False).manifest
    requests = take_turns(golden.load_requests(path, manifest), rows)
    with open_bundle_engines(path, manifest, threads=1, allow_native=True) as predict:
        for request in requests:
            predict(request)
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            predict(requests[count % len(requests)])
            count += 1
    print(count * rows / (time.perf_counter() - start))

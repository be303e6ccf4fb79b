"""What it costs a request to be watched: processor time of a JSON request of one sample, with and
without metrics.

    python -m benchmarks.telemetry

No socket is between, so a share here is more than a share of a real request. Budget: metrics take
at most 5 %.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import uvloop

from attar.serving.core.settings import Settings
from attar.serving.http.message import Request
from attar.serving.models.repository import Repository
from attar.serving.models.sources import parse_sources
from attar.serving.server import Server
from tests.support.bundles.packaging import package_bundle
from tests.support.serving.serving_parts import asked

TARGET = b"/v2/models/points/infer"
BODY = json.dumps(asked([1, 2])).encode()
TURNS, REQUESTS = 60, 500
VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "metrics": {},
    "and a shadow of 1 %": {"shadow": "fp32"},
}


async def start_server(path: Path, watched: bool, settings: dict[str, Any]) -> Server:
    server = Server(parse_sources([str(path)]), Settings(http_port=0, grpc_port=None, **settings))
    if not watched:
        repository = Repository(parse_sources([str(path)]), server.settings, server.supervisor)
        server.repository = server.service.repository = server.api.repository = repository
    await server.start()
    return server


async def time_requests(server: Server) -> float:
    """Return the microseconds of a request."""
    start = process_time()
    for _ in range(REQUESTS):
        await server.api.answer(
            Request(
                "POST",
                TARGET,
                {},
                BODY,
                keep_alive=True,
                reservation=server.ledger.open_reservation(),
            )
        )
    return (process_time() - start) / REQUESTS * 1e6


async def measure_variants(path: Path) -> dict[str, float]:
    """Return medians of turns in which each has its turn, as the machine is not equally quick all
    the time."""
    servers = {
        name: await start_server(path, name != "nothing", settings)
        for name, settings in VARIANTS.items()
    }
    found: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(TURNS):
        for name, server in servers.items():
            found[name].append(await time_requests(server))
    for server in servers.values():
        await server.stop()
    return {name: median(each) for name, each in found.items()}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = uvloop.run(measure_variants(package_bundle(Path(folder) / "points")))
    alone = found["nothing"]
    for name, each in found.items():
        sys.stdout.write(f"{name:20} {each:6.2f} us  {each / alone - 1:+.1%}\n")
    assert found["metrics"] < 1.05 * alone


if __name__ == "__main__":
    main()

"""Wrong requests by the hundred, by the ten thousand where there is time: no crash, no fault of ours, no leak, nothing stuck."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from tests.support.serving import fuzz_grpc, fuzz_http, fuzz_mutations
from tests.support.serving.server_process import ServerProcess, run_server

TOKEN = "0123456789abcdef"  # noqa: S105  # opens nothing but the server of a test
GROWTH = 24_000
"""Kilobytes that tens of thousands of requests may add: caches that fill up to their limits."""


def flat(server: ServerProcess, count: int, seed: int) -> None:
    random = Random(seed)
    fuzz_http.run(server.http, count // 4, random)
    before = server.resident()
    seen = fuzz_http.run(server.http, count - count // 4, random)
    assert server.resident() - before < GROWTH
    assert seen["200"] > count / 50  # some are still valid, so it is not one wall that all run into
    assert seen["400"] > count / 10
    server.check()


def test_a_change_leaves_what_it_puts_in_as_it_is() -> None:
    before, random = json.dumps(fuzz_mutations.VALUES), Random(1)
    for _ in range(5000):
        fuzz_mutations.text(fuzz_mutations.changed({"a": [1]}, random))
    assert json.dumps(fuzz_mutations.VALUES) == before


def test_some_hundred_over_http(points_bundle: Path, tmp_path: Path) -> None:
    with run_server(tmp_path, "--model-control", str(points_bundle)) as server:
        flat(server, 400, seed=1)


def test_some_hundred_over_grpc(points_bundle: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with run_server(tmp_path, "--token-file", str(tokens), str(points_bundle)) as server:
        fuzz_grpc.run(server.grpc, 300, Random(1), TOKEN)
        server.check()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_over_http(points_bundle: Path, tmp_path: Path) -> None:
    with run_server(tmp_path, "--model-control", str(points_bundle)) as server:
        flat(server, 20_000, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_over_grpc(points_bundle: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with run_server(tmp_path, "--token-file", str(tokens), str(points_bundle)) as server:
        random = Random(2)
        fuzz_grpc.run(server.grpc, 5_000, random, TOKEN)
        before = server.resident()
        fuzz_grpc.run(server.grpc, 15_000, random, TOKEN)
        assert server.resident() - before < GROWTH
        server.check()

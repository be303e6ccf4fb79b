"""What requests cost, in memory and in the time of others, whatever their bytes say: a server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attar.stages.serving.sizes import BRACKET_BYTES, FLOAT_BYTES
from tests import costly
from tests.costly import MEGA, ROWS, Spent, compressed, least, post
from tests.test_fuzz import Target, target

LARGEST = 2**16 + ROWS * 3 * 224 * 224 * FLOAT_BYTES + ROWS * (1 + 3 + 3 * 224) * BRACKET_BYTES
"""Bytes of the largest request, about."""
START = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[32,3,224,224],"data":['
SLOWEST = 0.25
"""Seconds that a probe may wait, twice what is promised: other tests run beside."""


@pytest.fixture(scope="module")
def bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return costly.bundle_of_large_requests(points_bundle, tmp_path_factory.mktemp("large") / "points")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("serve"), str(bundle)) as made:
        yield made
        made.check()


def asked(server: Target, body: bytes, status: int, **headers: str) -> Spent:
    found: set[int] = set()
    spent = least(server, lambda: found.add(post(server, body, **headers)))
    assert found == {status}
    assert spent.statuses == {200}
    return spent


BODIES = {
    "objects": (costly.objects(64 * MEGA), 413),
    "brackets": (START + b"[" * 64 * MEGA + b"]}]}", 400),
    "numbers": (START + b"1," * 32 * MEGA + b"1]}]}", 400),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BODIES)
def test_64_mebibytes_of_little_take_little(server: Target, name: str, packed: bool) -> None:
    """63 KiB of compressed objects had taken 2.1 GB, and the event loop for 10 s."""
    body, status = BODIES[name]
    headers = {"Content_Encoding": "gzip"} if packed else {}
    spent = asked(server, compressed(body) if packed else body, status, **headers)
    assert spent.growth < LARGEST
    assert spent.slowest < SLOWEST


def test_the_largest_request_holds_up_nobody(server: Target) -> None:
    """400 ms, when it was parsed on the event loop."""
    spent = asked(server, costly.pictures(), 200)
    assert spent.growth < 2 * LARGEST
    assert spent.slowest < SLOWEST


def test_a_body_that_no_request_of_the_model_has_is_refused_at_its_head(points_bundle: Path, tmp_path: Path) -> None:
    with target(tmp_path, str(points_bundle)) as server:
        spent = least(server, lambda: post(server, costly.objects(64 * MEGA)))
        assert spent.growth < 4 * MEGA
        assert post(server, b" " * 70_000) == 413
        assert post(server, b" " * 60_000) == 400

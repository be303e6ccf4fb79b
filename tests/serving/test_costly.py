"""What requests cost, in memory and in the time of others, whatever their bytes say: a server in a process of its own."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode
from tritonclient.utils import InferenceServerException

from attar.pipeline.keys import memory
from attar.serving.protocol.sizes import BRACKET_BYTES, FLOAT_BYTES
from tests.support.bundles import pictures
from tests.support.bundles.pictures import UP_PNG, infer_pictures, make_grey_png
from tests.support.serving import costly
from tests.support.serving.costly import MEGA, ROWS, Spent, compressed, least, post, watched
from tests.support.serving.server_process import ServerProcess, run_server
from tests.support.serving.serving_parts import METHOD, ask, running, until

LARGEST = 2**16 + ROWS * 3 * 224 * 224 * FLOAT_BYTES + ROWS * (1 + 3 + 3 * 224) * BRACKET_BYTES
"""Bytes of the largest request, about."""
START = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[32,3,224,224],"data":['
SLOWEST = 0.25
"""Seconds that a probe may wait, twice what is promised: other tests run beside."""


@pytest.fixture(scope="module")
def bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return costly.bundle_of_large_requests(points_bundle, tmp_path_factory.mktemp("large") / "points")


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with run_server(tmp_path_factory.mktemp("serve"), str(bundle)) as made:
        yield made
        made.check()


def asked(server: ServerProcess, body: bytes, status: int, **headers: str) -> Spent:
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
def test_64_mebibytes_of_little_take_little(server: ServerProcess, name: str, packed: bool) -> None:
    """63 KiB of compressed objects had taken 2.1 GB, and the event loop for 10 s."""
    body, status = BODIES[name]
    headers = {"Content_Encoding": "gzip"} if packed else {}
    spent = asked(server, compressed(body) if packed else body, status, **headers)
    assert spent.growth < LARGEST
    assert spent.slowest < SLOWEST


def test_the_largest_request_holds_up_nobody(server: ServerProcess) -> None:
    """400 ms, when it was parsed on the event loop."""
    spent = asked(server, costly.pictures(), 200)
    assert spent.growth < 2 * LARGEST
    assert spent.slowest < SLOWEST


def test_a_body_that_no_request_of_the_model_has_is_refused_at_its_head(points_bundle: Path, tmp_path: Path) -> None:
    with run_server(tmp_path, str(points_bundle)) as server:
        spent = least(server, lambda: post(server, costly.objects(64 * MEGA)))
        assert spent.growth < 4 * MEGA
        assert post(server, b" " * 70_000) == 413
        assert post(server, b" " * 60_000) == 400


def test_messages_of_grpc_share_the_memory_for_requests(bundle: Path, tmp_path: Path) -> None:
    """8 of 60 MiB at a time had taken 1.25 GB where 64 MiB were allowed."""
    with run_server(tmp_path, "--max-bodies", str(64 * MEGA), "--max-body", str(64 * MEGA), str(bundle)) as server:
        with watched(server) as spent, ThreadPoolExecutor(8) as threads:
            codes = set(threads.map(lambda _: costly.send(server, bytes(60 * MEGA)), range(8)))
        assert codes == {StatusCode.RESOURCE_EXHAUSTED}
        assert spent.growth < 400 * MEGA  # of one that is refused gRPC's own buffers among them
        assert costly.send(server, bytes(4 * 3 * 224 * 224), rows=1) == StatusCode.OK


@pytest.fixture(scope="module")
def generous(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes longer messages than any request of its model has."""
    with run_server(tmp_path_factory.mktemp("generous"), "--max-body", str(128 * MEGA), str(bundle)) as made:
        yield made
        made.check()


def test_a_message_longer_than_any_request_of_the_model_stays_with_its_client(server: ServerProcess) -> None:
    """As long as the largest request in JSON, over 100 MiB, were taken in before they were refused."""
    assert costly.send(server, bytes(ROWS * 4 * 3 * 224 * 224)) == StatusCode.OK
    with watched(server) as spent:
        assert costly.send(server, bytes(60 * MEGA)) == StatusCode.RESOURCE_EXHAUSTED
    assert spent.growth < 20 * MEGA
    assert spent.slowest < SLOWEST


@pytest.mark.parametrize("form", ["raw", "floats"])
def test_a_long_message_is_neither_copied_nor_decoded_on_the_event_loop(generous: ServerProcess, form: str) -> None:
    """60 MiB of floats had taken 184 MiB beside gRPC's own buffers; both held the event loop three times as long as gRPC does."""
    content = make_message(make_length_field(6, bytes(60 * MEGA)))

    def send() -> None:
        code = costly.send(generous, bytes(60 * MEGA)) if form == "raw" else costly.send_message(generous, content)
        assert code == StatusCode.INVALID_ARGUMENT

    send()  # gRPC keeps some buffers of its first long message
    spent = least(generous, send)
    assert spent.growth < 140 * MEGA  # two copies, one of them gRPC's own
    assert spent.slowest < SLOWEST


def test_a_silent_stream_makes_room_for_others(bundle: Path, tmp_path: Path) -> None:
    """One had kept the room for all of them, for as long as it liked."""
    with run_server(tmp_path, "--max-bodies", str(64 * MEGA), str(bundle)) as server, grpc.insecure_channel(server.grpc) as made:
        over, call = threading.Event(), made.stream_stream(METHOD + "ModelStreamInfer")
        request = make_message(make_length_field(6, bytes(4 * 3 * 224 * 224)))

        def talk(*requests: bytes) -> Iterator[bytes]:
            yield from requests
            over.wait(30)

        with watched(server) as spent:
            assert next(call(talk(request), timeout=30))
            for _ in range(3):
                assert len(list(call(iter([request] * 3), timeout=30))) == 3
        over.set()
        assert spent.growth < 100 * MEGA
        assert spent.slowest < SLOWEST


def test_small_fields_of_a_message_over_grpc_are_counted_before_they_are_objects(generous: ServerProcess) -> None:
    codes: set[StatusCode] = set()
    for field in (b"\x2a\x00", b"\x32\x00", b"\x22\x00"):  # inputs, outputs, parameters
        spent = least(generous, lambda: codes.add(costly.send_message(generous, field * 30 * MEGA)))  # noqa: B023  # is called now
        assert codes == {StatusCode.RESOURCE_EXHAUSTED}
        assert spent.growth < LARGEST * 4
        assert spent.slowest < SLOWEST


def make_length_field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf whose content has a length, as a message of more fields or packed numbers."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def make_message(*contents: bytes) -> bytes:
    """Return a request for ``points`` whose one input has these fields of contents."""
    about = make_length_field(1, b"x") + make_length_field(2, b"FP32") + make_length_field(3, b"\x01\x03\xe0\x01\xe0\x01")
    return make_length_field(1, b"points") + make_length_field(5, about + make_length_field(5, b"".join(contents)))


def test_integers_of_a_message_are_counted_before_they_are_decoded(generous: ServerProcess) -> None:
    """112 MiB of them took 2.3 GB, and the event loop for seconds."""
    message = make_message(*[make_length_field(3, b"\x01" * 16 * MEGA)] * 2)  # int64_contents
    with watched(generous) as spent:
        assert costly.send_message(generous, message) == StatusCode.INVALID_ARGUMENT
    assert spent.growth < 4 * len(message)
    assert costly.send_message(generous, make_message(*[b"\x18\x01"] * 9)) == StatusCode.INVALID_ARGUMENT


def read_resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_refused_message_is_freed_without_the_collector(bundle: Path) -> None:
    sent = make_message(make_length_field(6, bytes(4 * 2**22)))  # fp32_contents, not as many as the shape says
    with running(bundle, grpc_port=0) as server:
        gc.disable()
        try:
            resident = []
            for _ in range(14):
                with pytest.raises(grpc.RpcError, match="its shape"):
                    ask(server, sent)
                resident.append(read_resident_bytes())
        finally:
            gc.enable()
    assert resident[-1] - resident[3] < 4 * len(sent), [each >> 20 for each in resident]


def test_what_waits_for_the_shadow_is_bounded_in_bytes(bundle: Path, tmp_path: Path) -> None:
    """64 requests were kept, however long each was."""
    sent = costly.binary(ROWS)
    arguments = ("--shadow", "fp32", "--shadow-rate", "1", "--max-bodies", str(200 * MEGA))
    with run_server(tmp_path, *arguments, str(bundle)) as server:
        assert costly.post(server, *sent) == 200
        with watched(server) as spent, ThreadPoolExecutor(2) as threads:
            assert set(threads.map(lambda _: costly.post(server, *sent), range(60))) <= {200, 503}
        assert spent.growth < 300 * MEGA


def test_pictures_are_reserved_before_they_are_decoded(points_bundle: Path, tmp_path: Path) -> None:
    """139 KiB of a PNG had taken 280 MiB."""
    bundle = pictures.of_files(points_bundle, tmp_path / "points")
    with run_server(tmp_path, "--max-bodies", str(100 * MEGA), str(bundle)) as server:
        told = "takes 539,000,000 bytes of memory, --max-bodies allows"
        with watched(server) as spent, pytest.raises(InferenceServerException, match=told):
            infer_pictures(server, [make_grey_png(7000, bytes(7001 * 7000))])
        assert spent.growth < 60 * MEGA  # Pillow itself among them
        assert infer_pictures(server, [UP_PNG]).argmax() == 1


def test_the_ledger_is_shown_and_empty_in_the_end(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0, max_bodies=200_000) as server:
        start = f"POST /v2/models/points/infer HTTP/1.1\r\nHost: {server.url}\r\nContent-Length: 60000\r\n\r\n"
        with socket.create_connection((server.host, server.port)) as raw:
            raw.sendall(start.encode() + b" " * 50_000)
            until(lambda: server.metric("attar_ledger_bytes") == 50_000)
        until(lambda: server.metric("attar_ledger_bytes") == 0)
        assert server.metric("attar_ledger_limit_bytes") == 200_000
        assert server.metric("attar_ledger_refusals_total") == 0


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/b/memory.max": "max\n"},
            1000,
        ),
        ({"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2000\n"}, 2000),
        ({"proc/self/cgroup": "4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
        ({"proc/self/cgroup": "0::/../../a\n", "sys/fs/cgroup/memory.max": "3000\n"}, 3000),
        ({}, None),
    ],
)
def test_the_memory_that_a_process_may_have(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, said in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(said)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.read_memory_limit(tmp_path) == (expected or whole)

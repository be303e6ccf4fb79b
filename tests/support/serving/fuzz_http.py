"""Wrong requests over HTTP: made of valid ones, sent one after the other, and what came back judged."""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.support.serving.fuzz_mutations import changed, mutated, text
from tests.support.serving.serving_parts import asked

WORDS = (
    *(
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"\r\n\r\n",
        b"\r\n",
        b"\0",
    ),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"ffffffffffffffff\r\n",
        b"0\r\n\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Inference-Header-Content-Length: 7\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: deflate\r\n",
        b"Upgrade: h2c\r\n",
    ),
    *(
        b"Connection: Upgrade\r\n",
        b"Connection: keep-alive\r\n",
        b"..",
        b"/",
        b"%2e%2e%2f",
        b"%00",
        b"%ff",
        b"\xe2\x80\xae",
        b"[" * 600,
    ),
    *(
        b"{",
        b'"',
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-9223372036854775809",
        b"18446744073709551616",
        b"HEAD ",
        b"CONNECT ",
        b"A: b\r\n" * 9,
    ),
    *(b"A: " + b"a" * 20_000 + b"\r\n", b"Origin: http://elsewhere\r\n", b"\xff" * 8),
)
PIECE = struct.Struct("<2f")
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
PATIENCE = 0.03
"""Seconds to wait for an answer that may never come, as the request may have no end."""
FAULTS = ("500", "501", "502", "505")
"""503 and 504 are answers: to what is not loaded, and to a request that asks for a deadline that cannot be kept."""


def framed(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


def infers(content: Any, behind: bytes, random: Random) -> bytes:
    """A well framed request, its content sent in one of the ways that there are."""
    head, path = text(content), f"/v2/models/{random.choice(('points', 'points-raw'))}/infer"
    match random.randrange(6):
        case 0:
            return framed("POST", path, gzip.compress(head, 1), "Content-Encoding: gzip")
        case 1:
            return framed("POST", path, zlib.compress(head), "Content-Encoding: deflate")
        case 2:
            body = head + behind
            return framed("POST", path, body, f"Inference-Header-Content-Length: {len(head)}")
        case 3:
            lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            return (
                lines
                + b"".join(b"%x\r\n%s\r\n" % (len(head[i : i + 50]), head[i : i + 50]) for i in range(0, len(head), 50))
                + b"0\r\n\r\n"
            )
        case _:
            return framed("POST", path, head)


CONTENTS: Sequence[tuple[Any, bytes]] = (
    (asked([1, 2]), b""),
    (asked([1, 2], [3, 4], id="a", parameters={"mine": 1, "timeout": 10**6}, outputs=[{"name": "logits"}]), b""),
    (asked([1, 2], outputs=[{"name": "logits", "parameters": {"classification": 2, "binary_data": True}}]), b""),
    (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}]},
        PIECE.pack(1, 2),
    ),
)
PAGES = (
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/points", "/v2/models/points/ready", "/v2/models/points/config"),
    *("/v2/models/points/stats", "/v2/models/stats", "/v2/models/points/versions/1/ready", "/openapi.json"),
)
CALLS = ("/v2/repository/index", "/v2/repository/models/nothing/load", "/v2/repository/models/nothing/unload")


def request(random: Random) -> bytes:
    """A third has wrong content in right frames, the rest has any byte wrong."""
    content, behind = random.choice(CONTENTS)
    if random.random() < 0.35:
        return infers(
            changed(content, random), behind if random.random() < 0.7 else random.randbytes(random.randrange(20)), random
        )
    kind = random.random()
    if kind < 0.6:
        valid = infers(content, behind, random)
    elif kind < 0.9:
        valid = framed("GET", random.choice(PAGES))
    else:
        valid = framed("POST", random.choice(CALLS), random.choice((b"", b'{"ready": true}')))
    return mutated(valid, WORDS, random)


def sent(address: tuple[str, int], content: bytes) -> bytes:
    """What comes back until the server closes, or for as long as patience lasts."""
    answer = b""
    with socket.create_connection(address, timeout=5) as raw:
        try:
            raw.sendall(content)
            raw.settimeout(PATIENCE)
            while piece := raw.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            return answer
    return answer


def judged(answer: bytes) -> list[str]:
    """The statuses in it. Fails for a fault of the server, for an error that says nothing, and for what is no HTTP."""
    statuses = [found.decode() for found in STATUS.findall(answer)]
    assert not answer or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert not set(statuses) & set(FAULTS), answer[:500]
    if len(statuses) == 1 and statuses[0][0] == "4" and (body := answer.partition(b"\r\n\r\n")[2]):
        assert set(json.loads(body)) == {"error"}, answer[:500]
    return statuses


def answers(address: tuple[str, int]) -> bool:
    """Whether a valid request gets its answer right away. Where a wrong one has unloaded the model, it is loaded again."""
    reply = sent_valid(address, framed("POST", "/v2/models/points/infer", text(asked([1, 2]))))
    if b"not loaded: unloaded" in reply:
        sent_valid(address, framed("POST", "/v2/repository/models/points/load"))
        reply = sent_valid(address, framed("POST", "/v2/models/points/infer", text(asked([1, 2]))))
    return reply.startswith(b"HTTP/1.1 200")


def sent_valid(address: tuple[str, int], content: bytes) -> bytes:
    with socket.create_connection(address, timeout=20) as raw:
        raw.sendall(content)
        return b"".join(iter(lambda: raw.recv(65536), b""))


def run(address: tuple[str, int], count: int, random: Random) -> Counter[str]:
    """Send so many; every hundred a valid one must be answered. Gives how often which status came, "" for none."""
    seen: Counter[str] = Counter()
    for number in range(count):
        content = request(random)
        try:
            seen.update(judged(sent(address, content)) or [""])
        except AssertionError as error:
            raise AssertionError(f"{content[:2000]!r}") from error
        if number % 100 == 99:
            assert answers(address)
    return seen

"""A client over HTTP: the server's address and certificate, encoded requests, decoded answers."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import BadStatusLine, HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import orjson

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.serving.core.tokens import TOKEN
from attar.serving.protocol.request import HEADER_LENGTH
from attar.serving.protocol.response import describe_output
from attar.serving.protocol.tensors import DTYPES

FORMS = ("json", "binary")
TIMEOUT = 30.0
PORTS = {"http": 80, "https": 443, "grpc": 0, "grpcs": 0}
"""Default ports by scheme; gRPC has none, so it must be given."""
FULL = (errno.EMFILE, errno.ENFILE)
"""Errors of a process or a system that may open no more files."""


@dataclass(frozen=True)
class PostRequest:
    path: str
    headers: Mapping[str, str]
    body: bytes

    def encode(self, host: str) -> bytes:
        """Return the request as HTTP/1.1."""
        fields = {"Host": host, **self.headers, "Content-Length": str(len(self.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + self.body


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    scheme: str = "http"

    @property
    def is_grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def is_tls(self) -> bool:
        return self.scheme.endswith("s")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(url: str) -> Address:
    """Parse ``SCHEME://HOST:PORT``; over HTTP the port is optional. Raises AttarError."""
    try:
        parts = urlsplit(url)
        port = PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError:
        parts, port = urlsplit(""), 0
    more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in PORTS or not port or not parts.hostname or more:
        raise AttarError(
            f"the url is {url!r}, expected http://HOST:PORT or https, grpc or grpcs with it"
        )
    return Address(parts.hostname, port, parts.scheme)


def load_trust(ca: Path | None) -> ssl.SSLContext:
    """Return the trust in certificates: those in the file ``ca``, in PEM, or this machine's.

    Raises AttarError for another file.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        raise AttarError(
            f"{ca} holds no certificate in PEM: {error}; --ca takes that of who signed the server's"
        ) from error


def format_unreached(where: Address, error: Exception) -> AttarError:
    """Return the error of a server that gives no answer, which says what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return format_untrusted(where, error.verify_message)
    if isinstance(error, ssl.SSLError):
        return AttarError(
            f"there is no TLS with {where}: {error}; a server without it has a --url of http:// "
            "or grpc://"
        )
    if isinstance(error, BadStatusLine) and not isinstance(error, ConnectionError):
        return AttarError(
            f"{where} answered {str(error)[:40]!r}, which is no HTTP/1.1; give the address of "
            "its HTTP port"
        )
    if isinstance(error, OSError) and error.errno in FULL:
        return AttarError(
            f"there can be no more connections to {where}: {error}; raise `ulimit -n` or give "
            "fewer --connections"
        )
    return AttarError(
        f"there is no answer from {where}: {error}; start `attar serve`, or give its --url"
    )


def format_untrusted(where: Address, why: str) -> AttarError:
    return AttarError(
        f"the certificate of {where} is not trusted: {why}; give that of who signed it with --ca"
    )


def format_refusal(where: Address, what: str, status: str, said: str) -> AttarError:
    """Return the error of a refused request; ``status``: of HTTP or gRPC."""
    needs_token = status in ("401", "UNAUTHENTICATED")
    token = "; give the server's token with --token-file" if needs_token else ""
    return AttarError(f"{where} answered {what} with {status}: {said}{token}")


def build_request(
    model: str, inputs: Arrays, form: str, headers: Mapping[str, str] | None = None
) -> PostRequest:
    """Return a request for all outputs, with tensors in the same form in both directions."""
    binary, behind = form == "binary", list[memoryview]()
    asked: dict[str, Any] = {
        "inputs": [describe_output(name, array, binary, behind) for name, array in inputs.items()]
    }
    if binary:
        asked["parameters"] = {"binary_data_output": True}
    text = orjson.dumps(asked, option=orjson.OPT_SERIALIZE_NUMPY)
    kind = (
        {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(text))}
        if binary
        else {}
    )
    own = {"Content-Type": "application/json", **kind, **(headers or {})}
    return PostRequest(f"/v2/models/{quote(model, safe='')}/infer", own, b"".join([text, *behind]))


def send_request(
    where: Address, request: PostRequest, tls: ssl.SSLContext | None = None
) -> dict[str, Array]:
    """Return the outputs by name. Raises AttarError with the server's message if it refuses."""
    connection = (
        HTTPSConnection(where.host, where.port, timeout=TIMEOUT, context=tls)
        if tls
        else HTTPConnection(where.host, where.port, timeout=TIMEOUT)
    )
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        content, length = answer.read(), answer.getheader(HEADER_LENGTH)
    except (OSError, HTTPException) as error:
        raise format_unreached(where, error) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise format_refusal(
            where, request.path, str(answer.status), content[:500].decode("utf-8", "replace")
        )
    return read_outputs(content, len(content) if length is None else int(length))


def read_outputs(content: bytes, length: int) -> dict[str, Array]:
    """Decode an answer, whose first ``length`` bytes are JSON. Raises AttarError."""
    made: dict[str, Array] = {}
    try:
        for entry in orjson.loads(content[:length])["outputs"]:
            dtype, size = (
                DTYPES[entry["datatype"]],
                entry.get("parameters", {}).get("binary_data_size"),
            )
            part = content[length : length + (size or 0)]
            length += len(part)
            flat = np.array(entry["data"], dtype) if size is None else np.frombuffer(part, dtype)
            made[entry["name"]] = flat.reshape(entry["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise AttarError(
            f"the server's answer is not one of the Open Inference Protocol v2: {error!r}"
        ) from error
    return made


def read_bearer(file: Path | None) -> dict[str, str]:
    """Return headers with the first token of a file. Raises AttarError if it has none."""
    if file is None:
        return {}
    token = next(iter(file.read_bytes().split()), b"")
    if not TOKEN.fullmatch(token):
        raise AttarError(
            f"{file} holds no token; its first line is sent: 16 characters or more of A-Z a-z "
            "0-9 - . _ ~ + /"
        )
    return {"Authorization": f"Bearer {token.decode('ascii')}"}


def take_turns(requests: Arrays, rows: int) -> Sequence[dict[str, Array]]:
    """Return requests of ``rows`` samples each, which take all samples in turn."""
    count = len(next(iter(requests.values())))
    starts = range(0, count, rows)
    return [
        {name: array[np.arange(start, start + rows) % count] for name, array in requests.items()}
        for start in starts
    ]

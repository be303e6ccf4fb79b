"""Reads the requests of one connection of HTTP/1.1, within the limits that bound strangers."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf

import httptools

from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import (
    BadRequestError,
    HeaderTooLargeError,
    RequestError,
    TooLargeError,
)
from attar.serving.core.ledger import MemoryLedger
from attar.serving.http.api import HttpApi
from attar.serving.http.message import Request
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.json_numbers import Body

MINIMUM_BYTES_A_SECOND = 16_384
"""The rate at which a client must send, and take in answers, beyond the seconds that it has for
any."""
MAX_PIPELINED = 16
"""Requests of one connection that may wait before no more of it is read."""
PIECE_BYTES = 4096
"""Bytes that are parsed at a time where they may hold several requests: the shortest has 25."""
NOTHING = memoryview(b"")
HEAD_BYTES = 1024
"""Memory of the objects of a request, without the bytes of its headers."""


class RequestReader:
    """The parser calls ``on_...``. What these raise ends the parsing, and comes out of `read`."""

    def __init__(self, api: HttpApi, authenticator: Authenticator, ledger: MemoryLedger) -> None:
        self.requests: deque[Request] = deque()
        """Requests that are whole; the connection takes them from here."""
        self.is_active = False
        """Whether a part of a request has come, and not all of it."""
        self.is_done = False
        """Whether no further request is read."""
        self.expects_continue = False
        """Whether the client waits for leave to send the body."""
        self.deadline = 0.0
        """When the request must have come, on the event loop's clock."""
        self._api, self._authenticator, self._ledger = api, authenticator, ledger
        self._settings, self._loop = api.settings, asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._target, self._headers = b"", dict[bytes, bytes]()
        self._body: Body = b""
        self._has_head = False
        self._header_bytes = self._largest_body = 0
        self._size = 0  # bytes of the current body, 0 if it is chunked
        self._received = 0  # bytes of the current request, without the piece that it began in
        self._reservation = ledger.open_reservation()
        self._rest = NOTHING  # what is not parsed, as enough requests wait
        self._rest_reservation = ledger.open_reservation()

    @property
    def is_full(self) -> bool:
        """Whether no further request may wait."""
        return len(self.requests) >= MAX_PIPELINED

    def read(self, data: bytes) -> None:
        """Read the next bytes. Raises RequestError; then the caller has to `stop`.

        What comes behind the requests that may wait is kept until `read_rest`.
        """
        if not self._rest and data.find(b"\r", PIECE_BYTES) < 0:
            self._parse(data)  # the head of no further request ends behind the first piece
            return
        if self._rest:
            self._rest_reservation.add(len(data))
            data = bytes(self._rest) + data
        self._rest = memoryview(data)
        self.read_rest()

    def read_rest(self) -> None:
        """Read what was kept, as far as further requests may wait. Raises as `read`."""
        while self._rest and not (self.is_done or self.is_full):
            missing = self._size - len(self._body) if self.is_active and self._has_head else 0
            size = max(PIECE_BYTES, missing)
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._parse(piece)
        if self.is_done or not self._rest:
            self._drop_rest()
        elif not self._rest_reservation.held:
            self._rest_reservation.add(len(self._rest))

    def _drop_rest(self) -> None:
        self._rest = NOTHING
        if self._rest_reservation.held:
            self._rest_reservation.close()
            self._rest_reservation = self._ledger.open_reservation()

    def _parse(self, data: bytes | memoryview) -> None:
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(bytes(data[upgrade.args[0] :]))
            return
        except httptools.HttpParserError as error:
            if self.is_done:
                return  # bytes behind "Connection: close" are ignored
            refusal = error.__context__
            if isinstance(refusal, RequestError):
                raise refusal from None
            raise BadRequestError(f"no HTTP: {error}") from error
        if self.is_active:
            longer = self.deadline + len(data) / MINIMUM_BYTES_A_SECOND
            self.deadline = min(longer, self._loop.time() + self._settings.slow)
            self._check_overhead()

    def _ignore_upgrade(self, behind: bytes) -> None:
        """Read a request as if it did not ask for another protocol, as none is spoken here.

        The parser takes all that is behind such a head for that protocol: the request's body, too.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            self.is_done = True  # whose head alone says so
            return
        target, headers = self._target, dict(self._headers)
        del headers[b"upgrade"]
        for name in {b"connection", b"proxy-connection"} & headers.keys():  # the parser reads both
            options = [each.strip() for each in headers[name].split(b",")]
            headers[name] = b", ".join(each for each in options if each.lower() != b"upgrade")
        fields = b"".join(b"%s: %s\r\n" % field for field in headers.items())
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, target, version.encode(), fields)
        self._parser = httptools.HttpRequestParser(self)
        self._parse(head + behind)

    def restart_deadline(self) -> None:
        """Give the client the full time again, as the connection was not read for a while."""
        self.deadline = self._loop.time() + self._settings.slow

    def stop(self) -> None:
        """Read no more, and release the memory of a request that is not whole."""
        self.is_done, self.is_active = True, False
        self._reservation.close()
        self._body = b""
        self._drop_rest()

    def drop_requests(self) -> None:
        """Stop, and release the memory of the requests that wait as well."""
        self.stop()
        while self.requests:
            self.requests.popleft().reservation.close()

    # -- what the parser calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, b""
        self._header_bytes = self._received = 0
        self.is_active, self._has_head = True, False
        self.restart_deadline()

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # fields behind a chunked body are ignored
        self._header_bytes += len(name) + len(value)
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b", " + value
            self._check_header_bytes(len(value))  # before it is copied again and again
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Refuse what can be refused before the body is read."""
        self._has_head = True
        length = self._headers.get(b"content-length", b"0")
        self._check_header_bytes(len(self._target) + self._header_bytes)
        self._authenticator.check_request(self._target, self._headers)
        is_chunked = self._check_coding()
        size = int(length) if len(length) <= 18 else inf
        self._largest_body = min(SHORT_BYTES, self._settings.max_body or SHORT_BYTES)
        if is_chunked or size > self._largest_body:  # any request may have a shorter body
            method = self._parser.get_method().decode()
            self._largest_body = self._api.find_largest_body(method, self._target)
        self._check_body_bytes(size)
        self._size = int(size)
        self._ledger.check_size(self._size)
        self.expects_continue = self._headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, part: bytes) -> None:
        self._reservation.add(len(part))
        self._check_body_bytes(len(self._body) + len(part))
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + part
        else:
            self._body += part  # in place: joining pieces at the end would hold the body twice

    def on_message_complete(self) -> None:
        keep, method = self._parser.should_keep_alive(), self._parser.get_method().decode()
        if self._parser.should_upgrade() and method != "CONNECT":
            return  # it is read once more
        if self.requests:  # of the first one the number of connections is limit enough
            self._reservation.add(HEAD_BYTES + len(self._target) + self._header_bytes)
        self.requests.append(
            Request(method, self._target, self._headers, self._body, keep, self._reservation)
        )
        self._body, self._reservation = b"", self._ledger.open_reservation()
        self.is_active, self.is_done, self.expects_continue = False, not keep, False

    # -- limits -----------------------------------------------------------------------------------

    def _check_coding(self) -> bool:
        """Return whether the body is chunked. Raises BadRequestError."""
        version, coding = self._parser.get_http_version(), self._headers.get(b"transfer-encoding")
        if version not in ("1.0", "1.1"):
            raise BadRequestError(f"this is HTTP/{version}, spoken are 1.0 and 1.1")
        if version == "1.1" and b"host" not in self._headers:
            raise BadRequestError(
                "the header Host is missing; send one, as every request since 1.1 has one"
            )
        if coding is not None and (coding.lower() != b"chunked" or version != "1.1"):
            raise BadRequestError(
                "the one Transfer-Encoding that is read is chunked, in HTTP/1.1; compress "
                "with Content-Encoding"
            )
        return coding is not None

    def _check_header_bytes(self, size: int) -> None:
        if size > self._settings.max_header:
            raise HeaderTooLargeError(
                f"the request's line and headers are over {self._settings.max_header} bytes"
            )

    def _check_body_bytes(self, size: float) -> None:
        if size > self._largest_body:
            raise TooLargeError(
                f"the body is over {self._largest_body} bytes, which no request is here; send "
                "less, or raise --max-body"
            )

    def _check_overhead(self) -> None:
        """Refuse a request most of whose bytes are in no body, such as in the heads of chunks."""
        most = self._settings.max_header + len(self._body) // 4
        if self._received - len(self._body) > most:
            raise HeaderTooLargeError(
                f"more than {self._settings.max_header} bytes came that belong to no body"
            )

"""HTTP: one connection of HTTP/1.1 as an asyncio protocol on httptools: bytes to requests, replies
to bytes.

No framework stands between the socket and the model: what it would take pays for the checks
(``benchmarks/RESULTS.md``), and the limits below are simplest where the bytes come in. What is
asked for and answered is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import cast

import httptools

from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import (
    BadRequestError,
    BusyError,
    HeaderTooLargeError,
    RequestError,
    TooLargeError,
    TooSlowError,
)
from attar.serving.core.ledger import Ledger
from attar.serving.http.api import HttpApi
from attar.serving.http.message import Reply, Request, format_head
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.json_numbers import Body

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JOINED = 65536
"""Bytes up to which head and body are sent as one piece."""
SLOWEST = 16_384
"""Bytes a second that a client must manage over the seconds that it has anyway."""
LINGER = 2.0
"""Seconds in which a client may read why it was cut off before the connection is reset."""
GRACE = 1.0
"""Seconds that an idle connection stays open when the server ends."""
PIPELINED = 16
"""Requests of one connection that may wait for their turn before no more is read."""


class Connection(asyncio.Protocol):
    """Answers its requests one after the other, in their order."""

    def __init__(
        self,
        api: HttpApi,
        authenticator: Authenticator,
        ledger: Ledger,
        connections: set[Connection],
    ) -> None:
        """``connections``: the open ones of the server, which it adds itself to and leaves."""
        self.until = inf
        """On the loop's clock, when to ``cut`` it: the server looks now and then, so no timer is
        set for a request."""
        self._api, self._authenticator, self._ledger, self._connections = (
            api,
            authenticator,
            ledger,
            connections,
        )
        self._settings, self._loop = api.settings, asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._fault: RequestError | None = None
        self._last = self._reading = self._headed = self._blocked = self._paused = False
        self._reading_until = 0.0
        self._target, self._headers = b"", dict[bytes, bytes]()
        self._body: Body = b""
        self._head = 0  # bytes of the headers of the request that is being read
        self._most = 0  # bytes that its body may have
        self._reservation = ledger.open_reservation()
        self._received = 0  # bytes of the request that is being read, from the second piece on

    # -- what the server does with it -------------------------------------------------------------

    def time_out(self) -> None:
        """End it, as its time is over: say so to a client that was slow to send, drop one that
        is slow to read."""
        if self._reading:
            self._refuse_request(
                TooSlowError("the request did not arrive in time; send it quicker, or in parts")
            )
        elif self._last or self._blocked:
            self._transport.abort()
        else:
            self._transport.close()

    def drain(self) -> None:
        """Close it after its next answer.

        While nothing is asked it stays open for a moment, as a request may be on its way.
        """
        if not (self._reading or self._task or self._last):
            self.until = self._loop.time() + GRACE

    def abort(self) -> None:
        self._transport.abort()

    # -- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._set_deadline()
        if len(self._connections) > self._settings.max_connections:
            most = self._settings.max_connections
            self._api.service.record_refusal(
                BusyError(f"{most} connections are open, which are all that are taken")
            )
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Whatever it waited for is dropped.

        A client that is done sending counts as gone, as one that crashed looks the same.
        """
        self._connections.discard(self)
        self._drop_requests()
        self._last = True
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._blocked = True
        self._set_deadline()

    def resume_writing(self) -> None:
        self._blocked = False
        self._serve_next()

    def data_received(self, data: bytes) -> None:
        if self._last:
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = (
                True  # the request itself was read and is answered; the parser reads no further
            )
        except httptools.HttpParserError as error:
            if not self._last:  # nothing is read behind "Connection: close"
                self._refuse_request(BadRequestError(f"no HTTP: {error}"))
        if self._reading:
            more = self._reading_until + len(data) / SLOWEST
            self._reading_until = min(more, self._loop.time() + self._settings.slow)
            if self._received - len(self._body) > self._settings.max_header + len(self._body) // 4:
                self._refuse_request(
                    HeaderTooLargeError(
                        f"more than {self._settings.max_header} bytes came that belong to no body"
                    )
                )
            self._set_deadline()

    # -- what the parser calls --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body = b"", {}, b""
        self._head = self._received = 0
        self._reading, self._headed = not self._last, False
        self._reading_until = self._loop.time() + self._settings.slow

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if (
            self._last or self._headed
        ):  # what follows a body changes nothing of what was said before it
            return
        self._head += len(name) + len(value)
        name = name.lower()
        if name in self._headers:
            value = self._headers[name] + b", " + value
            if len(value) > self._settings.max_header:  # before it is copied again and again
                self._refuse_request(
                    HeaderTooLargeError(f"the headers are over {self._settings.max_header} bytes")
                )
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        self._headed = True
        if self._last:
            return
        try:
            self._check_head()
        except RequestError as error:
            self._refuse_request(error)
            return
        if self._headers.get(b"expect", b"").lower() == b"100-continue" and not (
            self._task or self._requests
        ):
            self._transport.write(CONTINUE)

    def _check_head(self) -> None:
        """Before anything of the body is read. Raises RequestError."""
        length = self._headers.get(b"content-length", b"0")
        if len(self._target) + self._head > self._settings.max_header:
            raise HeaderTooLargeError(
                f"the request's line and headers are over {self._settings.max_header} bytes"
            )
        self._authenticator.check_request(self._target, self._headers)
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
        size = int(length) if len(length) <= 18 else inf
        self._most = min(SHORT_BYTES, self._settings.max_body or SHORT_BYTES)
        if coding or size > self._most:  # else it is short enough for everything that can be asked
            self._most = self._api.find_largest_body(
                self._parser.get_method().decode(), self._target
            )
        if size > self._most:
            raise self._too_large()
        self._ledger.check_size(int(size))

    def on_body(self, part: bytes) -> None:
        if self._last:
            return
        try:
            self._reservation.add(len(part))
            if len(self._body) + len(part) > self._most:
                raise self._too_large()
        except RequestError as error:
            self._refuse_request(error)
            return
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body) + part
        else:
            self._body += part  # in place: joined pieces would be there twice

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"the body is over {self._most} bytes, which no request is here; send less, or "
            "raise --max-body"
        )

    def on_message_complete(self) -> None:
        if self._last:
            return
        keep, method = self._parser.should_keep_alive(), self._parser.get_method().decode()
        self._requests.append(
            Request(method, self._target, self._headers, self._body, keep, self._reservation)
        )
        self._body, self._reservation = b"", self._ledger.open_reservation()
        self._reading, self._last = False, not keep
        if len(self._requests) >= PIPELINED and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._serve_next()

    def _drop_requests(self) -> None:
        """That are not begun, and the one that is being read."""
        for reservation in (
            *(request.reservation for request in self._requests),
            self._reservation,
        ):
            reservation.close()
        self._requests.clear()
        self._body = b""

    # -- one request after the other --------------------------------------------------------------

    def _refuse_request(self, error: RequestError) -> None:
        """Nothing more is read; what came before is still answered."""
        if not self._last:
            self._fault, self._last, self._reading = error, True, False
            self._reservation.close()
            self._body = b""
            self._serve_next()

    def _serve_next(self) -> None:
        """Take the next request, where the one before is answered and its answer taken in."""
        if not (self._task or self._blocked):
            if self._requests:
                self._task = self._loop.create_task(self._serve_request(self._requests.popleft()))
            elif self._fault:
                self._write_reply(self._api.refuse(self._fault), keep=False)
                self._fault = None
                self._close_gently()
            if self._paused and len(self._requests) < PIPELINED:
                self._paused = False
                self._transport.resume_reading()
        self._set_deadline()

    async def _serve_request(self, request: Request) -> None:
        try:
            reply = await self._api.answer(request)
        finally:
            request.reservation.close()
        self._task = None
        if self._transport.is_closing():
            return
        keep = (
            request.keep_alive
            and not self._api.service.draining
            and not (self._last and not self._requests and not self._fault)
        )
        self._write_reply(reply, keep, bodiless=request.method == "HEAD")
        if keep:
            self._reading_until = self._loop.time() + self._settings.slow
            self._serve_next()
        else:
            self._last = True
            self._drop_requests()
            self._close_gently()

    def _write_reply(self, reply: Reply, keep: bool, bodiless: bool = False) -> None:
        size = sum(map(len, reply.body))
        own = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        head = format_head(
            reply.status, reply.content_type, keep
        ) + f"{own}Content-Length: {size}\r\n\r\n".encode("latin-1")
        if bodiless or size < JOINED:
            self._transport.write(b"".join([head, *(() if bodiless else reply.body)]))
        else:
            self._transport.writelines([head, *reply.body])

    def _close_gently(self) -> None:
        """Close so that the client can still read: a reset would take the answer from it where
        bytes of its own are unread."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._set_deadline()
        else:
            self._transport.close()

    def _set_deadline(self) -> None:
        now = self._loop.time()
        if self._blocked:
            self.until = now + self._settings.slow
        elif self._task:
            self.until = inf
        elif self._last:
            self.until = now + LINGER
        elif self._reading:
            self.until = self._reading_until
        else:
            self.until = now + self._settings.idle

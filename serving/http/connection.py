"""One connection of HTTP/1.1, as an asyncio protocol: requests to replies, replies to bytes.

No framework stands between the socket and the model: the time that it would take pays for the
limits (``benchmarks/RESULTS.md``), which are simplest where the bytes come in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator
from math import inf
from typing import cast

from attar.serving.core import logs
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import BusyError, RequestError, TooSlowError
from attar.serving.core.ledger import MemoryLedger
from attar.serving.http.api import HttpApi, describe_request
from attar.serving.http.message import Buffer, Reply, Request, format_head
from attar.serving.http.request_reader import MINIMUM_BYTES_A_SECOND, RequestReader

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JOINED_BYTES = 65536
"""Up to this size the head and the body of a reply are sent as one piece. What is longer goes to
the transport in pieces of this size, each when the client has taken enough of those before: with
TLS the transport does not tell all that it holds."""
HELD_BYTES = 3 * JOINED_BYTES
"""What a transport of TLS, which ends no sending, may have given to that of the socket, unseen."""
LINGER_SECONDS = 2.0
"""Time in which a client may read why it was refused before the connection is reset."""
GRACE_SECONDS = 1.0
"""Time that an idle connection stays open when the server ends."""
log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """Answers its requests one after the other, in their order."""

    def __init__(
        self,
        api: HttpApi,
        authenticator: Authenticator,
        ledger: MemoryLedger,
        connections: set[Connection],
    ) -> None:
        """``connections``: the server's open ones, which it adds itself to and leaves."""
        self.deadline = inf
        """When to call `time_out`, on the loop's clock. The server looks at it now and then, so
        that no request needs a timer."""
        self._api, self._connections, self._ledger = api, connections, ledger
        self._settings, self._loop = api.settings, asyncio.get_running_loop()
        self._reader = RequestReader(api, authenticator, ledger)
        self._task: asyncio.Task[None] | None = None
        self._refusal: RequestError | None = None
        self._is_blocked = self._is_paused = self._is_ending = False
        self._unwritten: deque[Buffer] = deque()  # holds nothing unless it is blocked
        self._unsent = 0  # bytes that the client had not taken when that was last looked at
        self._counted = 0  # bytes of replies in the ledger
        self._last_active = 0.0
        self.transport: asyncio.Transport
        """With TLS and before its handshake one that can only be ended."""

    # -- what the server calls --------------------------------------------------------------------

    def time_out(self) -> None:
        """Refuse a client that sends slowly; drop one that reads slowly, or sends nothing."""
        if self._unsent:
            self._drop_unless_read()
        elif self._reader.is_active:
            self._refuse(
                TooSlowError("the request did not arrive in time; send it quicker, or in parts")
            )
        elif self._reader.is_done or self.transport.is_closing():  # TLS waits for its client
            self.abort()
        else:
            self.transport.close()
            self._set_deadline()

    def drain(self) -> None:
        """Close an idle connection in a moment, as a request may be on its way; any other one
        closes after its next reply, or when its client has taken the last one."""
        self._set_deadline()

    def abort(self) -> None:
        self.transport.abort()

    # -- what the transport calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count as open. With TLS it is called again, with the transport behind the handshake."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(JOINED_BYTES)
        self._connections.add(self)
        self._set_deadline()
        most = self._settings.max_connections
        if len(self._connections) > most:
            self._api.service.record_refusal(
                BusyError(f"{most} connections are open, which are all that are taken")
            )
            find_longest_silent(self._connections, self).abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Drop all requests.

        A client that only ends its sending counts as gone: one that crashed looks the same.
        """
        self._connections.discard(self)
        self._reader.drop_requests()
        self._add_unsent(-self._counted)
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._is_blocked = True
        self._add_unsent(self._measure_unsent())
        self.deadline = self._loop.time() + self._settings.slow

    def resume_writing(self) -> None:
        self._is_blocked = False
        self._add_unsent(-self._counted)
        self._unsent = 0
        self._write_pieces()
        self._serve_next()

    def data_received(self, data: bytes) -> None:
        if self._reader.is_done:
            return
        try:
            self._reader.read(data)
        except RequestError as error:
            self._refuse(error)
            return
        if self._reader.expects_continue and not (self._task or self._reader.requests):
            self.transport.write(CONTINUE)
        self._reader.expects_continue = False
        if self._reader.is_full and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()
        self._serve_next()

    # -- one request after the other --------------------------------------------------------------

    def _refuse(self, error: RequestError) -> None:
        """Read no more. The refusal is sent behind the replies to the requests before."""
        self._reader.stop()
        self._refusal = error
        self._serve_next()

    def _serve_next(self) -> None:
        """Begin with the next request if the client has taken the reply to the one before."""
        if not (self._task or self._is_blocked):
            requests = self._reader.requests
            if requests:
                request = requests.popleft()
                self._task = self._loop.create_task(self._serve(request))
                # `_serve` does so sooner, but not if it is cancelled before its first step.
                self._task.add_done_callback(lambda _: request.reservation.close())
            elif self._refusal:
                self._write_reply(self._api.refuse(self._refusal), keep=False)
                self._refusal = None
                self._close_gently()
            if self._is_paused:
                self._read_rest()
        self._set_deadline()

    def _read_rest(self) -> None:
        """Read again once a further request may wait."""
        try:
            self._reader.read_rest()
        except RequestError as error:
            self._reader.stop()
            self._refusal = error
        if not self._reader.is_full:
            self._is_paused = False
            self.transport.resume_reading()

    async def _serve(self, request: Request) -> None:
        """Answer a request. An unforeseen error is logged, and ends the connection."""
        try:
            try:
                reply = await self._api.answer(request)
            finally:
                request.reservation.close()
            self._task = None
            if not self.transport.is_closing():
                self._finish_request(request, reply)
        except Exception:
            fields = logs.log_fields(**describe_request(request))
            log.exception("a reply could not be sent", extra=fields)
            self.abort()

    def _finish_request(self, request: Request, reply: Reply) -> None:
        """Send a reply, and go on to the next request or close."""
        is_last = self._reader.is_done and not self._reader.requests and not self._refusal
        keep = request.keep_alive and not self._api.service.draining and not is_last
        self._write_reply(reply, keep, is_head=request.method == "HEAD")
        if keep:
            self._reader.restart_deadline()
            self._serve_next()
        else:
            self._reader.drop_requests()
            self._close_gently()

    def _write_reply(self, reply: Reply, keep: bool, *, is_head: bool = False) -> None:
        size = sum(map(len, reply.body))
        fields = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        head = format_head(reply.status, reply.content_type, keep)
        head += f"{fields}Content-Length: {size}\r\n\r\n".encode("latin-1")
        pieces = [head] if is_head else [head, *reply.body]
        if self._is_blocked:
            self._add_unsent(sum(map(len, pieces)))
        joined = [b"".join(pieces)] if size < JOINED_BYTES else pieces
        self._unwritten.extend(cut_pieces(joined))
        self._write_pieces()

    def _write_pieces(self) -> None:
        """Write as much as the client takes."""
        while self._unwritten and not self._is_blocked:
            self.transport.write(self._unwritten.popleft())
        if self._is_ending and not self._unwritten:
            self._end_writing()

    def _close_gently(self) -> None:
        """Close when all is written."""
        self._is_ending = True
        self._write_pieces()

    def _end_writing(self) -> None:
        """Close so that the client can read the reply, which a reset takes from it while bytes of
        its own are unread."""
        self._is_ending = False
        self._unsent = self._measure_unsent()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        self._set_deadline()

    def _drop_unless_read(self) -> None:
        """Drop the client, unless it has taken enough of the reply to be given more time."""
        unsent, now = self._measure_unsent(), self._loop.time()
        longer = self.deadline + (self._unsent - unsent) / MINIMUM_BYTES_A_SECOND
        self.deadline, self._unsent = min(longer, now + self._settings.slow), unsent
        if not unsent:
            self._set_deadline()
        elif self.deadline < now:
            self.abort()

    def _measure_unsent(self) -> int:
        return self.transport.get_write_buffer_size() + sum(map(len, self._unwritten))

    def _add_unsent(self, size: int) -> None:
        """Count bytes that wait to be taken. They are there already: nothing is refused."""
        self._ledger.count(size)
        self._counted += size
        self._unsent += size

    @property
    def silent_since(self) -> float:
        """When its client last did something, on the loop's clock; never while it is answered."""
        return inf if self._task or self.transport.is_closing() else self._last_active

    def _set_deadline(self) -> None:
        """Must be called whenever something happens on the connection.

        What the client sends gives it no time to read what it is sent.
        """
        self._last_active = now = self._loop.time()
        if self._is_blocked:
            return
        if self._task:
            self.deadline = inf
        elif self._unsent:
            self.deadline = now + self._settings.slow
        elif self._reader.is_done or self.transport.is_closing():
            unseen = 0 if self.transport.can_write_eof() else HELD_BYTES
            self.deadline = now + LINGER_SECONDS + unseen / MINIMUM_BYTES_A_SECOND
        elif self._reader.is_active:
            self.deadline = self._reader.deadline
        else:
            draining = self._api.service.draining
            self.deadline = now + (GRACE_SECONDS if draining else self._settings.idle)


def cut_pieces(parts: Iterable[Buffer]) -> Iterator[Buffer]:
    """Yield the parts in pieces that the transport can take one by one."""
    for part in parts:
        whole = memoryview(part) if len(part) > JOINED_BYTES else part
        for start in range(0, len(whole), JOINED_BYTES):
            yield whole[start : start + JOINED_BYTES]


def find_longest_silent(connections: set[Connection], newest: Connection) -> Connection:
    """Return the connection that waits for its client since the earliest moment; the newest one
    if no other waits."""
    others = [each for each in connections if each is not newest and each.silent_since < inf]
    return min(others, key=lambda connection: connection.silent_since, default=newest)

"""A load over HTTP, on sockets and epoll: a generator slower than the server measures itself."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.serving.load.client import FORMS, Address, build_request, format_unreached, send_request
from attar.serving.load.load import CLOSED, PATIENCE, UNANSWERED, Load
from attar.serving.load.schedule import Schedule

PIECE = 1 << 16
OK = 200
AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Errors that say that there is nothing to read, or no room to write, for now."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of an answer."""

    status: int
    length: int
    keep_alive: bool


@lru_cache(maxsize=4096)
def parse_head(lines: bytes) -> ResponseHead:
    """Parse the head of an answer, once for each that a server repeats.

    Raises AttarError if it has no length.
    """
    first, *rest = lines.split(b"\r\n")
    version, _, status = first.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
        raise AttarError(
            f"the server answered {first[:80]!r}, which is no HTTP/1.1; give the address of "
            "its HTTP port"
        )
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in rest)
    }
    if not fields.get(b"content-length", b"").isdigit():
        raise AttarError(
            "the server answered without Content-Length, which the load generator needs"
        )
    return ResponseHead(
        int(status[:3]),
        int(fields[b"content-length"]),
        fields.get(b"connection", b"").lower() != b"close",
    )


class ClientConnection:
    """One connection, for one request at a time."""

    def __init__(self, where: Address, epoll: select.epoll, tls: ssl.SSLContext | None) -> None:
        """Raises AttarError without a trusted server."""
        self.is_busy = False
        self.intended = 0.0
        self._where, self._epoll, self._tls = where, epoll, tls
        self._unsent = memoryview(b"")
        self._head: ResponseHead | None = None
        self._lines, self._missing = b"", 0
        try:
            self._socket = socket.create_connection((where.host, where.port), PATIENCE)
            self._family, self._peer = self._socket.family, self._socket.getpeername()
            if tls:
                self._socket = tls.wrap_socket(self._socket, server_hostname=where.host)
        except OSError as error:
            raise format_unreached(where, error) from error
        self._socket.setblocking(False)
        self._watch_socket()

    def reopen(self) -> None:
        """Connect to the same server again, without waiting for the connection."""
        self._socket = socket.socket(self._family)
        self._socket.setblocking(False)
        if self._tls:
            self._socket = self._tls.wrap_socket(
                self._socket, server_hostname=self._where.host, do_handshake_on_connect=False
            )
        self._socket.connect_ex(self._peer)
        self._watch_socket()

    def _watch_socket(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(self._socket, select.EPOLLIN)
        self.is_open = True

    @property
    def file_number(self) -> int:
        """Return the descriptor, for epoll."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self.is_open = self.is_busy = False
        self._unsent = memoryview(b"")

    def send(self, message: bytes, intended: float) -> None:
        self.is_busy, self.intended, self._head, self._lines = True, intended, None, b""
        self._write(memoryview(message))

    def continue_sending(self) -> None:
        """Send the rest of a message that did not go out at once."""
        self._write(self._unsent)

    def _write(self, message: memoryview) -> None:
        waited = bool(self._unsent)
        try:
            sent = self._socket.send(message)
        except AGAIN:
            sent = 0
        except OSError:  # the error is found when the answer is read
            sent = len(message)
        self._unsent = message[sent:]
        if waited != bool(self._unsent):
            self._epoll.modify(
                self._socket, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
            )

    def read(self) -> int:
        """Return the status once the answer is whole, before that 0.

        Raises ConnectionError if the connection was closed.
        """
        # Until nothing is left: epoll does not see what TLS has read already.
        while data := self._receive_bytes():
            if status := self._parse_status(data):
                return status
        if data is None:
            return 0
        raise ConnectionResetError

    def discard_unasked(self) -> None:
        """Close the connection if it ended, or if an answer comes without a request."""
        if self._receive_bytes() is not None:
            self.close()

    def _receive_bytes(self) -> bytes | None:
        """Return what has come; None if that is nothing for now, empty at the end."""
        try:
            return self._socket.recv(PIECE)
        except AGAIN:
            return None
        except OSError:  # a reset
            return b""

    def _parse_status(self, data: bytes) -> int:
        if self._head is None:
            data = self._lines + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._lines = data
                return 0
            self._head = parse_head(data[:end])
            self._missing = self._head.length + end + 4
        self._missing -= len(data)
        return self._head.status if self._missing <= 0 else 0

    def finish(self) -> None:
        """Free the connection for the next request."""
        self.is_busy = False
        was_refused_early = bool(self._unsent)
        if was_refused_early or (self._head and not self._head.keep_alive):
            self.close()


class HttpLoad(Load[ClientConnection]):
    def __init__(
        self,
        where: Address,
        messages: Sequence[bytes],
        connections: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``messages``: encoded requests. Raises AttarError without a trusted server."""
        with ExitStack() as opened:
            self._epoll = opened.enter_context(select.epoll())
            made = [
                opened.enter_context(closing(ClientConnection(where, self._epoll, tls)))
                for _ in range(connections)
            ]
            self._opened = opened.pop_all()
        super().__init__(messages, made)
        self._by_number = {connection.file_number: connection for connection in made}

    def close(self) -> None:
        self._opened.close()

    def _send_requests(self, schedule: Schedule) -> None:
        ended = inf
        while True:
            now = time.perf_counter()
            while self._free and (intended := schedule.take_due(now)) is not None:
                self._send_next(self._free.popleft(), intended)
            if schedule.is_over(now):
                ended = min(ended, now)
                if len(self._free) == len(self._every):
                    return None
                if now > ended + PATIENCE:
                    return self._give_up()
            for number, event in self._epoll.poll(self._compute_wait(schedule, now)):
                self._handle_event(self._by_number[number], event)

    def _send_next(self, connection: ClientConnection, intended: float) -> None:
        if not connection.is_open:
            connection.reopen()
            self._by_number[connection.file_number] = connection
        connection.send(self._take_message(), intended)

    def _handle_event(self, connection: ClientConnection, event: int) -> None:
        if event & select.EPOLLOUT:
            connection.continue_sending()
        if not event & ~select.EPOLLOUT:
            return
        if not connection.is_busy:
            connection.discard_unasked()
            return
        try:
            status = connection.read()
        except ConnectionError:
            self._errors[CLOSED] += 1
            connection.close()
            self._free.append(connection)
            return
        if status == OK:
            self._latencies.append(time.perf_counter() - connection.intended)
        elif status:
            self._errors[str(status)] += 1
        if status:
            connection.finish()
            self._free.append(connection)

    def _give_up(self) -> None:
        for connection in self._every:
            if connection.is_busy:
                self._errors[UNANSWERED] += 1
                connection.close()
                self._free.append(connection)


@dataclass(frozen=True)
class Http:
    """Requests to a server over HTTP."""

    where: Address
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    forms = FORMS

    def infer(self, model: str, inputs: Arrays, form: str) -> dict[str, Array]:
        return send_request(self.where, build_request(model, inputs, form, self.headers), self.tls)

    def encode_requests(self, model: str, requests: Sequence[Arrays], form: str) -> list[bytes]:
        return [
            build_request(model, each, form, self.headers).encode(str(self.where))
            for each in requests
        ]

    def open_load(self, messages: Sequence[bytes], connections: int) -> HttpLoad:
        return HttpLoad(self.where, messages, connections, self.tls)

"""HTTP load: sockets and epoll without an event loop between: a generator that is slower than
the server would measure itself."""

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
"""Nothing to read, or no room to write, for now."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the lines above an answer's body say."""

    status: int
    length: int
    keep_alive: bool


@lru_cache(maxsize=4096)
def find_head_end(lines: bytes) -> Head:
    """Servers repeat themselves, so it is read once.

    Raises AttarError for what is no answer with a length.
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
    return Head(
        int(status[:3]),
        int(fields[b"content-length"]),
        fields.get(b"connection", b"").lower() != b"close",
    )


class Connection:
    """One request at a time; opened again when it is needed."""

    def __init__(self, where: Address, epoll: select.epoll, tls: ssl.SSLContext | None) -> None:
        """Raises AttarError where nothing listens, or who listens is not trusted."""
        self.asked = False
        self.intended = 0.0
        self._where, self._epoll, self._tls = where, epoll, tls
        self._unsent = memoryview(b"")
        self._head: Head | None = None
        self._lines, self._missing = b"", 0
        try:
            self._socket = socket.create_connection((where.host, where.port), PATIENCE)
            self._family, self._peer = self._socket.family, self._socket.getpeername()
            if tls:
                self._socket = tls.wrap_socket(self._socket, server_hostname=where.host)
        except OSError as error:
            raise format_unreached(where, error) from error
        self._socket.setblocking(False)
        self._register()

    def reopen(self) -> None:
        """To the same server, without waiting for it: writing goes on once it is there, reading
        tells where it is not."""
        self._socket = socket.socket(self._family)
        self._socket.setblocking(False)
        if self._tls:
            self._socket = self._tls.wrap_socket(
                self._socket, server_hostname=self._where.host, do_handshake_on_connect=False
            )
        self._socket.connect_ex(self._peer)
        self._register()

    def _register(self) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(self._socket, select.EPOLLIN)
        self.opened = True

    @property
    def number(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self.opened = self.asked = False
        self._unsent = memoryview(b"")

    def ask(self, message: bytes, intended: float) -> None:
        self.asked, self.intended, self._head, self._lines = True, intended, None, b""
        self._send(memoryview(message))

    def write(self) -> None:
        """Go on with a message that did not go out at once."""
        self._send(self._unsent)

    def _send(self, message: memoryview) -> None:
        waited = bool(self._unsent)
        try:
            sent = self._socket.send(message)
        except AGAIN:
            sent = 0
        except OSError:  # reading tells of it, after whatever was answered
            sent = len(message)
        self._unsent = message[sent:]
        if waited != bool(self._unsent):
            self._epoll.modify(
                self._socket, select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0)
            )

    def read(self) -> int:
        """The status once the answer is whole, before that 0.

        Raises ConnectionError when it was closed.
        """
        while (
            data := self._received()
        ):  # until there is nothing: epoll does not see what TLS has read already
            if status := self._status(data):
                return status
        if data is None:
            return 0
        raise ConnectionResetError

    def unasked(self) -> None:
        """What comes without a request is the end, or nothing that a next answer could be told
        from; or TLS for itself."""
        if self._received() is not None:
            self.close()

    def _received(self) -> bytes | None:
        """None: nothing for now; empty: the end."""
        try:
            return self._socket.recv(PIECE)
        except AGAIN:
            return None
        except OSError:  # reset, and what TLS makes of it
            return b""

    def _status(self, data: bytes) -> int:
        if self._head is None:
            data = self._lines + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._lines = data
                return 0
            self._head = find_head_end(data[:end])
            self._missing = self._head.length + end + 4
        self._missing -= len(data)
        return self._head.status if self._missing <= 0 else 0

    def done(self) -> None:
        """It is free for the next request."""
        self.asked = False
        if self._unsent or (
            self._head and not self._head.keep_alive
        ):  # some are refused before all is sent
            self.close()


class HttpLoad(Load[Connection]):
    def __init__(
        self,
        where: Address,
        messages: Sequence[bytes],
        connections: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``messages``: whole HTTP requests.

        Raises AttarError where nothing listens, or who listens is not trusted.
        """
        with ExitStack() as opened:
            self._epoll = opened.enter_context(select.epoll())
            made = [
                opened.enter_context(closing(Connection(where, self._epoll, tls)))
                for _ in range(connections)
            ]
            self._opened = opened.pop_all()
        super().__init__(messages, made)
        self._by_number = {connection.number: connection for connection in made}

    def close(self) -> None:
        self._opened.close()

    def _drive(self, schedule: Schedule) -> None:
        ended = inf
        while True:
            now = time.perf_counter()
            while self._free and (intended := schedule.due(now)) is not None:
                self._ask(self._free.popleft(), intended)
            if schedule.over(now):
                ended = min(ended, now)
                if len(self._free) == len(self._every):
                    return None
                if now > ended + PATIENCE:
                    return self._give_up()
            for number, event in self._epoll.poll(self._wait(schedule, now)):
                self._look(self._by_number[number], event)

    def _ask(self, connection: Connection, intended: float) -> None:
        if not connection.opened:
            connection.reopen()
            self._by_number[connection.number] = connection
        connection.ask(self._message(), intended)

    def _look(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLOUT:
            connection.write()
        if not event & ~select.EPOLLOUT:
            return
        if not connection.asked:
            connection.unasked()
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
            connection.done()
            self._free.append(connection)

    def _give_up(self) -> None:
        for connection in self._every:
            if connection.asked:
                self._errors[UNANSWERED] += 1
                connection.close()
                self._free.append(connection)


@dataclass(frozen=True)
class Http:
    """A server that is asked over HTTP."""

    where: Address
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None
    forms = FORMS

    def ask(self, model: str, inputs: Arrays, form: str) -> dict[str, Array]:
        return send_request(self.where, build_request(model, inputs, form, self.headers), self.tls)

    def messages(self, model: str, requests: Sequence[Arrays], form: str) -> list[bytes]:
        return [
            build_request(model, each, form, self.headers).message(str(self.where))
            for each in requests
        ]

    def load(self, messages: Sequence[bytes], connections: int) -> HttpLoad:
        return HttpLoad(self.where, messages, connections, self.tls)

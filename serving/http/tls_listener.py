"""Accepts connections of TLS. They count from the moment that they are there, not from their
handshake, which a stranger need never make."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from attar.serving.core.supervisor import Supervisor
from attar.serving.http.connection import Connection

PAUSE_SECONDS = 0.1
"""Pause after a connection that could not be accepted, as where no descriptor is left."""
log = logging.getLogger(__name__)


def accept_waiting(listening: socket.socket, most: int) -> list[socket.socket]:
    """Accept the connections that wait at a listening socket; ``most``: its backlog."""
    accepted: list[socket.socket] = []
    with socket.socket(fileno=os.dup(listening.fileno())) as same, suppress(OSError):
        same.setblocking(False)
        while len(accepted) < most:
            accepted.append(same.accept()[0])  # raises BlockingIOError if none waits
            accepted[-1].setblocking(False)
    return accepted


class Handshake(asyncio.Transport):
    """What a connection has for a transport until its handshake is made: it can only be ended."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        super().__init__()
        self._task = task

    def abort(self) -> None:
        self._task.cancel()

    def close(self) -> None:
        self._task.cancel()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written before the handshake."""

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._task.cancelling() > 0


class TlsListener:
    """The listening sockets of a server with TLS."""

    def __init__(
        self,
        make_connection: Callable[[], Connection],
        context: ssl.SSLContext,
        seconds: float,
        supervisor: Supervisor,
    ) -> None:
        """``seconds``: the time that a handshake may take."""
        self.sockets: list[socket.socket] = []
        self._make_connection, self._context, self._seconds = make_connection, context, seconds
        self._supervisor, self._loop = supervisor, asyncio.get_running_loop()
        self._accepting: list[asyncio.Task[None]] = []

    async def listen(self, host: str, port: int, backlog: int) -> None:
        """Listen on every address of a host. Raises OSError."""
        flags = socket.AI_PASSIVE
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        try:
            for family, *_, address in dict.fromkeys(found):
                made = socket.create_server(address, family=family, backlog=backlog)
                self.sockets.append(made)
                made.setblocking(False)
        except OSError:
            self.close()
            raise
        for each in self.sockets:
            task = self._supervisor.run_once("accept", self._accept_connections(each))
            self._accepting.append(task)

    def close(self) -> None:
        """Accept no more. What is accepted stays."""
        for task in self._accepting:
            task.cancel()
        while self.sockets:
            self.sockets.pop().close()

    async def _accept_connections(self, listening: socket.socket) -> None:
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(listening)
            except OSError as error:
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self.begin_handshake(accepted)

    def begin_handshake(self, accepted: socket.socket) -> None:
        connection = self._make_connection()
        task = self._supervisor.run_once("handshake", self._secure(connection, accepted))
        handshake = Handshake(task)

        def end_handshake(_: asyncio.Task[None]) -> None:
            if connection.transport is handshake:  # it was not made
                connection.connection_lost(None)
                with suppress(OSError):  # it is closed already
                    accepted.shutdown(socket.SHUT_RDWR)  # or one cancelled at once would go on
                accepted.close()

        task.add_done_callback(end_handshake)
        connection.connection_made(handshake)

    async def _secure(self, connection: Connection, accepted: socket.socket) -> None:
        """Make the handshake, in which the connection gets its true transport."""
        with suppress(OSError):  # also of the handshake, and for one that takes too long
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._seconds,
            )

"""The server of bundles: it listens over HTTP and gRPC, and watches its connections. On SIGTERM it
answers the requests in progress, and ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import uvloop

from attar.pipeline.core.errors import AttarError
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.descriptors import fit_connections
from attar.serving.core.ledger import MemoryLedger
from attar.serving.core.settings import Settings
from attar.serving.core.supervisor import Supervisor
from attar.serving.http.api import HttpApi
from attar.serving.http.connection import Connection
from attar.serving.http.inference import InferenceHandler
from attar.serving.http.message import Reply, Request
from attar.serving.http.metadata import MetadataHandlers
from attar.serving.http.tls_listener import TlsListener, accept_waiting
from attar.serving.models.observer import Observer
from attar.serving.models.recovery import Recovery
from attar.serving.models.repository import Repository
from attar.serving.models.service import InferenceService
from attar.serving.models.sources import BundleSources
from attar.serving.models.watch import Watcher
from attar.serving.observation.shadow import ShadowObserver
from attar.serving.observation.telemetry import ModelGauges, Telemetry
from attar.serving.page.page import Page

if TYPE_CHECKING:
    from attar.serving.grpc.server import GrpcServer

LOOK_SECONDS = 0.5
"""Interval at which connections are checked for an expired deadline."""
BACKLOG = 2048
"""Number of connections that may wait to be accepted."""
log = logging.getLogger(__name__)


class Server:
    """The servers for HTTP and gRPC. It must be made on the event loop that it runs on."""

    def __init__(
        self, sources: BundleSources, settings: Settings, observers: Iterable[Observer] = ()
    ) -> None:
        self.settings = settings
        self.telemetry, self.ledger = Telemetry(), MemoryLedger(settings.max_bodies)
        self.shadow = ShadowObserver(settings, self.ledger) if settings.shadow else None
        shadows = [self.shadow] if self.shadow else []
        everybody = [self.telemetry, *shadows, *observers]
        self.supervisor = Supervisor()
        self.repository = Repository(sources, settings, self.supervisor, everybody)
        self._recovery = Recovery(self.repository)
        self.telemetry.collectors += [
            ModelGauges(self.repository),
            self.supervisor,
            self._recovery,
            self.ledger,
            *shadows,
        ]
        self.authenticator = Authenticator(settings)
        self.service = InferenceService(self.repository, everybody)
        self.api = HttpApi(self.service)
        MetadataHandlers(self.api, self.authenticator)
        inference = InferenceHandler(self.api)
        self.api.add_route("GET", "/metrics", self._get_metrics)
        self._page = Page(self.api, inference, self.shadow) if settings.page else None
        self.connections: set[Connection] = set()
        self.address = ""
        """The url of HTTP."""
        self.grpc: GrpcServer | None = None

    async def start(self) -> None:
        """Load the bundles and listen.

        Raises InvalidBundleError, and AttarError for an address that is not free.
        """
        watcher = Watcher(self.repository, self.settings.watch)
        if self.settings.watch:
            await watcher.remember()
        await self.repository.start()
        try:
            await self._listen()
        except AttarError:
            await self.repository.close()
            raise
        self.supervisor.keep_running("connections", self._watch_connections)
        self.supervisor.keep_running("recovery", self._recovery.run)
        if self.shadow:
            self.supervisor.keep_running("shadow", self.shadow.run)
        if self.settings.watch:
            self.supervisor.keep_running("watch", watcher.run)

    @property
    def addresses(self) -> str:
        """The urls at which it listens."""
        return f"{self.address} and {self.grpc.address}" if self.grpc else self.address

    async def _get_metrics(self, request: Request) -> Reply:
        accept = request.headers.get(b"accept", b"").decode("latin-1")
        body, content_type = self.telemetry.render_metrics(accept)
        return Reply([body], content_type=content_type)

    async def _listen(self) -> None:
        if self.settings.grpc_port is not None:
            from attar.serving.grpc.server import GrpcServer

            self.grpc = GrpcServer(self.service, self.authenticator, self.ledger)
            await self.grpc.start()
        try:
            self._listener = await self._open_listener()
        except OSError as error:
            if self.grpc:
                await self.grpc.stop()
            asked = f"{self.settings.host}:{self.settings.http_port}"
            raise AttarError(
                f"cannot listen on {asked}: {error}; choose another with --host and --http-port"
            ) from error
        host, port = self._listener.sockets[0].getsockname()[:2]
        scheme = "https" if self.authenticator.tls else "http"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    async def _open_listener(self) -> asyncio.Server | TlsListener:
        """Listen over HTTP. Raises OSError."""
        host, port, tls = self.settings.host, self.settings.http_port, self.authenticator.tls
        if tls is None:
            loop = asyncio.get_running_loop()
            return await loop.create_server(self._make_connection, host, port, backlog=BACKLOG)
        made = TlsListener(self._make_connection, tls, self.settings.slow, self.supervisor)
        await made.listen(host, port, BACKLOG)
        return made

    def _make_connection(self) -> Connection:
        return Connection(self.api, self.authenticator, self.ledger, self.connections)

    async def stop(self) -> None:
        """Take no more requests, answer the others within ``settings.drain`` seconds, and close."""
        self.service.draining = True
        await asyncio.gather(self._drain_connections(), *([self.grpc.stop()] if self.grpc else []))
        await self.supervisor.close()
        await self.repository.close()
        await asyncio.to_thread(self.service.reader_thread.close)
        if self._page:
            await asyncio.to_thread(self._page.close)

    async def _stop_listening(self) -> None:
        """Take no further connections, but those that the system took already, which closing would
        reset with the requests in them."""
        listener = self._listener
        waiting = [
            accepted for each in listener.sockets for accepted in accept_waiting(each, BACKLOG)
        ]
        listener.close()
        if isinstance(listener, TlsListener):
            for accepted in waiting:
                listener.begin_handshake(accepted)
            return
        connect = asyncio.get_running_loop().connect_accepted_socket
        begun = (connect(self._make_connection, accepted) for accepted in waiting)
        await asyncio.gather(*begun, return_exceptions=True)  # some may be gone already

    async def _drain_connections(self) -> None:
        await self._stop_listening()
        for connection in list(self.connections):
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain):
                while self.connections:
                    await asyncio.sleep(0.01)
        if self.connections:
            log.warning(
                "%d connections were cut off: %g s were not enough to drain",
                len(self.connections),
                self.settings.drain,
            )
        for connection in list(self.connections):
            connection.abort()

    async def _watch_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.authenticator.reload_if_changed()
            now = loop.time()
            for connection in [each for each in self.connections if each.deadline < now]:
                connection.time_out()


async def run_server(
    sources: BundleSources, settings: Settings, ready: Callable[[Server], object]
) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` is called as soon as requests are answered."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = Server(sources, settings)
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.authenticator.reload)
    for line in server.authenticator.list_warnings():
        log.warning("%s", line)
    ready(server)
    await stopped.wait()
    await server.stop()


def serve(sources: BundleSources, settings: Settings, ready: Callable[[Server], object]) -> None:
    uvloop.run(run_server(sources, fit_connections(settings), ready))

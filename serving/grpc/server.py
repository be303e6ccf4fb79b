"""gRPC: the Open Inference Protocol v2 over gRPC, beside HTTP on the same event loop and with the same models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.message_factory import GetMessageClass

from attar.pipeline.core.errors import AttarError
from attar.serving.core.authenticator import Guard
from attar.serving.core.errors import Busy, NotFound, Refused, TooLarge
from attar.serving.core.ledger import Ledger, Reservation
from attar.serving.grpc.admission import Door
from attar.serving.grpc.calls import decoded, encoded, foreseen, options, refuse
from attar.serving.grpc.health import Health
from attar.serving.grpc.infer import read, written
from attar.serving.grpc.message_memory import MessageRoom, reserve_copies
from attar.serving.grpc.messages import (
    HEALTH,
    SERVICE,
    HealthCheckRequest,
    HealthCheckResponse,
    ModelInferRequest,
    ModelStreamInferResponse,
)
from attar.serving.grpc.stream import Pipeline
from attar.serving.grpc.wire import check_message
from attar.serving.models.service import InferenceService
from attar.serving.protocol import response
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.reader import Reader
from attar.serving.protocol.request import Infer

GRACE = 1.0
"""Seconds that a stream stays open without a request when the server ends."""
LEAST_BYTES = 2**20
"""Of the longest message that is taken, where no model needs as much: a model may be loaded later that does."""
HOLD = 0.1
"""Seconds for which calls that come when the server ends are held, so that none comes from a client that waits for its answer
in the moment of the end."""
WATCHERS = 8
"""One of so many of the calls that are taken at a time may be a Watch, which has no end of its own."""
Fields: TypeAlias = Mapping[str, Any]
"""Of a response."""
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""From a request and its context to a response, or to its fields."""


class Rpc:
    """The services and the server that they are reached through."""

    def __init__(self, service: InferenceService, guard: Guard, ledger: Ledger) -> None:
        """Models must be loaded before: gRPC takes a limit on messages once."""
        self.service, self.repository = service, service.repository
        self.settings = service.settings
        self.address = ""
        """Where it listens, once it does."""
        self._guard, self._door, self._health = guard, Door(guard, self.settings), Health(service)
        self._largest = self.settings.max_body or max(LEAST_BYTES, service.longest_request_bytes)
        self._room = MessageRoom(ledger, self._largest)
        self._open = asyncio.Event()
        """Whether calls that come are begun at once."""
        self._open.set()
        self._streams: set[asyncio.Timeout] = set()  # of those that wait for a request
        self._watching = 0
        self._handlers: Mapping[str, Handler] = {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ServerMetadata": self.server,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model,
            "ModelConfig": self.configuration,
            "ModelStatistics": self.statistics,
            "ModelInfer": self.infer,
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "Check": self.check,
        }

    async def start(self) -> None:
        """Raises AttarError for an address that cannot be had."""
        self._server = grpc.aio.server(options=options(self.settings, self._largest))
        streams = {"ModelStreamInfer": self.stream, "Watch": self.watch}
        for service in (SERVICE, HEALTH):
            methods = {
                method.name: grpc.stream_stream_rpc_method_handler(streams[method.name])
                if method.server_streaming
                else grpc.stream_unary_rpc_method_handler(self._unary(method))
                for method in service.methods
            }
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, methods)])
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        try:
            port = self._opened(f"{host}:{self.settings.grpc_port}")
        except RuntimeError as error:
            asked = f"{host}:{self.settings.grpc_port}"
            raise AttarError(f"cannot listen on {asked} for gRPC: {error}; choose another with --host and --grpc-port") from error
        await self._server.start()
        self.address = f"grpc{'s' if self.settings.tls_cert else ''}://{host}:{port}"

    def _opened(self, address: str) -> int:
        pair = self._guard.key_pair()
        if pair is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def stop(self) -> None:
        """Take no more, and answer what has begun within ``settings.drain`` seconds.

        gRPC says CANCELLED, which no client tries again, to a call that comes after it has begun to stop and before its client
        has read its GOAWAY. So calls are held first, and answered behind the GOAWAY: their clients read it before the answer.
        """
        for limit in self._streams:
            limit.reschedule(asyncio.get_running_loop().time() + GRACE)
        self._open.clear()
        await asyncio.sleep(min(HOLD, self.settings.drain))
        stopped = asyncio.create_task(self._server.stop(self.settings.drain))
        asyncio.get_running_loop().call_soon(self._open.set)  # behind the first step of the task, which sends the GOAWAY
        await stopped

    def _unary(self, method: Any) -> Callable[[Any, Any], Awaitable[bytes]]:
        """What gRPC calls. It reads, decodes and encodes by itself, so that a request that never comes is cut off, which gRPC
        does not do, and so that every error is told as one of the protocol."""
        name, handler = method.name, self._handlers[method.name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

        async def answer(context: Any) -> bytes:
            await self._open.wait()
            with self._room.open() as reservation:
                made = await handler(decoded(asked, await self._read(name, context, reservation)), context)
                return encoded(answered(**made) if isinstance(made, Mapping) else made)

        async def call(_: Any, context: Any) -> bytes:
            async with self._refusing(name, context):
                return await answer(context)

        return call

    async def _read(self, name: str, context: Any, reservation: Reservation) -> Any:
        """The request of a call. Raises Refused."""
        read = partial(self._door.message, name, context)
        sent = await (self._room.read(reservation, read) if self._door.may_be_long(name, context) else read())
        if name == "ModelInfer":
            self._check(sent)
        elif isinstance(sent, bytes) and len(sent) > SHORT_BYTES:
            raise TooLarge(f"the message is over {SHORT_BYTES} bytes, which none is that holds no tensors")
        return sent

    def _check(self, sent: Any) -> None:
        if isinstance(sent, bytes) and len(sent) > SHORT_BYTES:
            check_message(sent, self.settings.max_elements)

    @asynccontextmanager
    async def _refusing(self, name: str, context: Any) -> AsyncIterator[None]:
        """A call that is counted among those under way. An error ends it with its status, and is counted and logged."""
        try:
            with foreseen(name), self._door.count_call(name, context):
                yield
        except Refused as error:
            self.service.record_refusal(error, method=name)
            await refuse(context, error)

    async def _next(self, context: Any) -> Any:
        """The next request of a stream. Raises Busy where none comes for long, or soon when the server ends."""
        try:
            async with asyncio.timeout(GRACE if self.service.draining else self.settings.idle) as limit:
                self._streams.add(limit)
                try:
                    return await context.read()
                finally:
                    self._streams.discard(limit)
        except TimeoutError:
            raise Busy("no request came on the stream for long, or the server ends; open another") from None

    # -- the server -------------------------------------------------------------------------------------------------

    async def live(self, request: Any, context: Any) -> Fields:
        return {"live": self.repository.live}

    async def ready(self, request: Any, context: Any) -> Fields:
        return {"ready": self.service.is_ready}

    async def server(self, request: Any, context: Any) -> Fields:
        return self.service.describe_server()

    async def check(self, request: Any, context: Any) -> Fields:
        """What there is by name is told to whoever has a token alone."""
        if request.service:
            self._door.admit(context)
        return {"status": self._health.status(request.service)}

    async def watch(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Needs a token for the server as well: it takes up a call for as long as its client likes."""
        await self._open.wait()
        async with self._refusing("Watch", context):
            asked = decoded(HealthCheckRequest, await self._door.message("Watch", context))
            with self._watcher():
                async for status in self._health.changes(asked.service):
                    yield encoded(HealthCheckResponse(status=status))
            raise Busy("the server ends; ask another")

    @contextmanager
    def _watcher(self) -> Iterator[None]:
        """Raises Busy where so many watch that requests would find no place."""
        most = max(1, self.settings.max_connections // WATCHERS)
        if self._watching >= most:
            raise Busy(f"{most} watch already; ask with Check")
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    # -- models -----------------------------------------------------------------------------------------------------

    async def model_ready(self, request: Any, context: Any) -> Fields:
        """An unknown model is not ready, which clients tell from an error."""
        try:
            return {"ready": self.service.is_model_ready(request.name, request.version)}
        except (NotFound, Busy):
            return {"ready": False}

    async def model(self, request: Any, context: Any) -> Fields:
        return self.repository.metadata(request.name, request.version)

    async def configuration(self, request: Any, context: Any) -> Fields:
        return {"config": self.repository.model(request.name, request.version).configuration()}

    async def statistics(self, request: Any, context: Any) -> Fields:
        """Of every model where none is named."""
        return {"model_stats": self.service.collect_statistics(request.name, request.version)}

    async def infer(self, request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return await self._inferred(request, inf if remaining is None else remaining)

    async def stream(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Answers in the order of the requests; an error is told in its place, with the request's id, and does not end it."""
        await self._open.wait()
        async with self._refusing("ModelStreamInfer", context):
            with self._room.hold_stream():
                async for response in Pipeline(partial(self._next, context), self._streamed).answer_in_order():
                    yield encoded(response)

    async def _streamed(self, sent: bytes) -> Any:
        named = ""
        try:
            with foreseen("ModelStreamInfer"), self._room.open() as reservation:
                reserve_copies(reservation, sent)
                self._check(sent)
                request = decoded(ModelInferRequest, sent)
                named = request.id
                return ModelStreamInferResponse(infer_response=await self._inferred(request, inf))
        except Refused as error:
            self.service.record_refusal(error, method="ModelStreamInfer")
            return ModelStreamInferResponse(error_message=str(error), infer_response={"id": named})

    async def _inferred(self, request: Any, within: float) -> Any:
        model = self.repository.model(request.model_name, request.model_version)
        with model.served.use():
            asked = await self.service.read_request(model, self._read_tensors(model.reader, request))
            with self._room.open() as asked.reservation:
                found = await model.infer(asked, within)
            answer = response.answer(asked, found, model.name, model.version, model.signature.labels)
            return written(answer, request.parameters)

    async def _read_tensors(self, reader: Reader, request: Any) -> Infer:
        """Beside the event loop where many values are sent one by one."""
        if request.raw_input_contents or request.ByteSize() <= SHORT_BYTES:
            return read(reader, request)
        return await self.service.reading.run(lambda: read(reader, request))

    # -- the repository ---------------------------------------------------------------------------------------------

    async def index(self, request: Any, context: Any) -> Fields:
        return {"models": self.service.list_models(only_ready=request.ready)}

    async def load(self, request: Any, context: Any) -> Fields:
        self._door.admit_control(context)
        await self.service.load_model(request.model_name, request.parameters)
        return {}

    async def unload(self, request: Any, context: Any) -> Fields:
        self._door.admit_control(context)
        await self.repository.unload(request.model_name)
        return {}

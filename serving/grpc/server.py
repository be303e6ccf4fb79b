"""gRPC: the Open Inference Protocol v2 over gRPC, beside HTTP on the same event loop and with
the same models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.message_factory import GetMessageClass

from attar.pipeline.core.errors import AttarError
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import BusyError, NotFoundError, RequestError, TooLargeError
from attar.serving.core.ledger import Ledger, Reservation
from attar.serving.grpc.admission import GrpcAdmission
from attar.serving.grpc.calls import (
    abort_call,
    convert_errors,
    decode_message,
    encode_message,
    list_server_options,
)
from attar.serving.grpc.health import Health
from attar.serving.grpc.infer import build_message, count_integers, read_request
from attar.serving.grpc.message_memory import COPIES, MessageMemory, reserve_copies
from attar.serving.grpc.messages import (
    HEALTH,
    SERVICE,
    HealthCheckRequest,
    HealthCheckResponse,
    ModelInferRequest,
    ModelStreamInferResponse,
)
from attar.serving.grpc.stream import StreamPipeline
from attar.serving.grpc.wire import check_message
from attar.serving.models.service import InferenceService
from attar.serving.protocol import response
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.reader import Reader
from attar.serving.protocol.request import InferenceRequest

GRACE = 1.0
"""Seconds that a stream stays open without a request when the server ends."""
LEAST_BYTES = 2**20
"""Of the longest message that is taken, where no model needs as much: a model may be loaded
later that does."""
HOLD = 0.1
"""Seconds for which calls that come when the server ends are held, so that none comes from a
client that waits for its answer in the moment of the end."""
SMALL_PART = 16
"""Messages of callers without a token are waited for one at a time where they could exceed one of
so many parts of the memory for requests together."""
WATCHERS = 8
"""One of so many of the calls that are taken at a time may be a Watch, which has no end of its
own."""
Fields: TypeAlias = Mapping[str, Any]
"""Of a response."""
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""From a request and its context to a response, or to its fields."""
log = logging.getLogger(__name__)


class GrpcServer:
    """The services and the server that they are reached through."""

    def __init__(
        self, service: InferenceService, authenticator: Authenticator, ledger: Ledger
    ) -> None:
        """Models must be loaded before: gRPC takes a limit on messages once."""
        self.service, self.repository = service, service.repository
        self.settings = service.settings
        self.address = ""
        """Where it listens, once it does."""
        self._authenticator, self._admission, self._health = (
            authenticator,
            GrpcAdmission(authenticator, self.settings),
            Health(service),
        )
        self._largest = self._find_largest_message(ledger)
        self._memory = MessageMemory(ledger, self._largest)
        small = ledger.limit // SMALL_PART // self._largest
        self._admission.most_reads = max(1, min(self._admission.most_reads, small))
        self._open = asyncio.Event()
        """Whether calls that come are begun at once."""
        self._open.set()
        self._streams: set[asyncio.Timeout] = set()  # of those that wait for a request
        self._watching = 0
        self._handlers: Mapping[str, Handler] = {
            "ServerLive": self.get_liveness,
            "ServerReady": self.get_readiness,
            "ServerMetadata": self.get_server_metadata,
            "ModelReady": self.get_model_readiness,
            "ModelMetadata": self.get_model_metadata,
            "ModelConfig": self.get_model_configuration,
            "ModelStatistics": self.get_statistics,
            "ModelInfer": self.infer,
            "RepositoryIndex": self.list_models,
            "RepositoryModelLoad": self.load_model,
            "RepositoryModelUnload": self.unload_model,
            "Check": self.check_health,
        }

    def _find_largest_message(self, ledger: Ledger) -> int:
        """Return how many bytes a message may have: no more than find room while it is read."""
        longest = max(LEAST_BYTES, self.service.longest_request_bytes)
        wanted, room = self.settings.max_body or longest, ledger.limit // COPIES
        if wanted > room:
            log.warning(
                "messages over gRPC have at most %d bytes, a request may need %d; "
                "raise --max-bodies to take longer ones",
                room,
                wanted,
            )
        return min(wanted, room)

    async def start(self) -> None:
        """Listen. Raises AttarError if the address is not free."""
        self._server = grpc.aio.server(options=list_server_options(self.settings, self._largest))
        streams = {"ModelStreamInfer": self.stream_inferences, "Watch": self.watch_health}
        for service in (SERVICE, HEALTH):
            methods = {
                method.name: grpc.stream_stream_rpc_method_handler(streams[method.name])
                if method.server_streaming
                else grpc.stream_unary_rpc_method_handler(self._make_handler(method))
                for method in service.methods
            }
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service.full_name, methods)]
            )
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        try:
            port = self._open_port(f"{host}:{self.settings.grpc_port}")
        except RuntimeError as error:
            asked = f"{host}:{self.settings.grpc_port}"
            raise AttarError(
                f"cannot listen on {asked} for gRPC: {error}; choose another with --host and "
                "--grpc-port"
            ) from error
        await self._server.start()
        self.address = f"grpc{'s' if self.settings.tls_cert else ''}://{host}:{port}"

    def _open_port(self, address: str) -> int:
        pair = self._authenticator.key_pair()
        if pair is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def stop(self) -> None:
        """Take no more, and answer what has begun within ``settings.drain`` seconds.

        gRPC says CANCELLED, which no client tries again, to a call that comes after it has begun to
        stop and before its client has read its GOAWAY. So calls are held first, and answered behind
        the GOAWAY: their clients read it before the answer.
        """
        for limit in self._streams:
            limit.reschedule(asyncio.get_running_loop().time() + GRACE)
        self._open.clear()
        await asyncio.sleep(min(HOLD, self.settings.drain))
        stopped = asyncio.create_task(self._server.stop(self.settings.drain))
        asyncio.get_running_loop().call_soon(
            self._open.set
        )  # behind the first step of the task, which sends the GOAWAY
        await stopped

    def _make_handler(self, method: Any) -> Callable[[Any, Any], Awaitable[bytes]]:
        """Return what gRPC calls for a method.

        It reads, decodes and encodes by itself, so that a request that never comes is cut off,
        which gRPC does not do, and so that every error is told as one of the protocol.
        """
        name, handler = method.name, self._handlers[method.name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

        async def answer(context: Any) -> bytes:
            await self._open.wait()
            with self._memory.open_reservation() as reservation:
                made = await handler(
                    decode_message(asked, await self._read_message(name, context, reservation)),
                    context,
                )
                return encode_message(answered(**made) if isinstance(made, Mapping) else made)

        async def call(_: Any, context: Any) -> bytes:
            async with self._handle_errors(name, context):
                return await answer(context)

        return call

    async def _read_message(self, name: str, context: Any, reservation: Reservation) -> Any:
        """Return the request of a call. Raises RequestError."""
        read = partial(self._admission.read_message, name, context)
        sent = await (
            self._memory.read_message(reservation, read)
            if self._admission.may_be_long(name, context)
            else read()
        )
        if name == "ModelInfer":
            self._check_message(sent, reservation)
        elif isinstance(sent, bytes) and len(sent) > SHORT_BYTES:
            raise TooLargeError(
                f"the message is over {SHORT_BYTES} bytes, which none is that holds no tensors"
            )
        return sent

    def _check_message(self, sent: Any, reservation: Reservation) -> None:
        """Reserve what decoding takes. Raises RequestError."""
        if isinstance(sent, bytes) and len(sent) > SHORT_BYTES:
            reservation.add(check_message(sent, self._count_integers))

    def _count_integers(self, name: str, version: str) -> int:
        return count_integers(self.repository.find_model(name, version).reader)

    @asynccontextmanager
    async def _handle_errors(self, name: str, context: Any) -> AsyncIterator[None]:
        """Count a call among those under way.

        An error ends it with its status, and is counted and logged.
        """
        try:
            with convert_errors(name), self._admission.count_call(name, context):
                yield
        except RequestError as error:
            self.service.record_refusal(error, method=name)
            await abort_call(context, error)

    async def _read_next(self, context: Any) -> Any:
        """Return the next request of a stream.

        Raises BusyError where none comes for long, or soon when the server ends.
        """
        try:
            async with asyncio.timeout(
                GRACE if self.service.draining else self.settings.idle
            ) as limit:
                self._streams.add(limit)
                try:
                    return await context.read()
                finally:
                    self._streams.discard(limit)
        except TimeoutError:
            raise BusyError(
                "no request came on the stream for long, or the server ends; open another"
            ) from None

    # -- the server -------------------------------------------------------------------------------

    async def get_liveness(self, request: Any, context: Any) -> Fields:
        return {"live": self.repository.live}

    async def get_readiness(self, request: Any, context: Any) -> Fields:
        return {"ready": self.service.is_ready}

    async def get_server_metadata(self, request: Any, context: Any) -> Fields:
        return self.service.describe_server()

    async def check_health(self, request: Any, context: Any) -> Fields:
        """What there is by name is told to whoever has a token alone."""
        if request.service:
            self._admission.check_token(context)
        return {"status": self._health.find_status(request.service)}

    async def watch_health(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Needs a token for the server as well: it takes up a call for as long as its client
        likes."""
        await self._open.wait()
        async with self._handle_errors("Watch", context):
            asked = decode_message(
                HealthCheckRequest, await self._admission.read_message("Watch", context)
            )
            with self._count_watcher():
                async for status in self._health.watch_status(asked.service):
                    yield encode_message(HealthCheckResponse(status=status))
            raise BusyError("the server ends; ask another")

    @contextmanager
    def _count_watcher(self) -> Iterator[None]:
        """Raises BusyError where so many watch that requests would find no place."""
        most = max(1, self.settings.max_connections // WATCHERS)
        if self._watching >= most:
            raise BusyError(f"{most} watch already; ask with Check")
        self._watching += 1
        try:
            yield
        finally:
            self._watching -= 1

    # -- models -----------------------------------------------------------------------------------

    async def get_model_readiness(self, request: Any, context: Any) -> Fields:
        """An unknown model is not ready, which clients tell from an error."""
        try:
            return {"ready": self.service.is_model_ready(request.name, request.version)}
        except (NotFoundError, BusyError):
            return {"ready": False}

    async def get_model_metadata(self, request: Any, context: Any) -> Fields:
        return self.repository.describe_metadata(request.name, request.version)

    async def get_model_configuration(self, request: Any, context: Any) -> Fields:
        return {
            "config": self.repository.find_model(
                request.name, request.version
            ).describe_configuration()
        }

    async def get_statistics(self, request: Any, context: Any) -> Fields:
        """Return the statistics of a model, or of every model if none is named."""
        return {"model_stats": self.service.collect_statistics(request.name, request.version)}

    async def infer(self, request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return await self._infer_within(request, inf if remaining is None else remaining)

    async def stream_inferences(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Answers in the order of the requests; an error is told in its place, with the
        request's id, and does not end it."""
        await self._open.wait()
        async with self._handle_errors("ModelStreamInfer", context):
            with self._memory.hold_stream():
                async for response in StreamPipeline(
                    partial(self._read_next, context), self._infer_streamed
                ).answer_in_order():
                    yield encode_message(response)

    async def _infer_streamed(self, sent: bytes) -> Any:
        named = ""
        try:
            with convert_errors("ModelStreamInfer"), self._memory.open_reservation() as reservation:
                reserve_copies(reservation, sent)
                self._check_message(sent, reservation)
                request = decode_message(ModelInferRequest, sent)
                named = request.id
                return ModelStreamInferResponse(
                    infer_response=await self._infer_within(request, inf)
                )
        except RequestError as error:
            self.service.record_refusal(error, method="ModelStreamInfer")
            return ModelStreamInferResponse(error_message=str(error), infer_response={"id": named})

    async def _infer_within(self, request: Any, within: float) -> Any:
        model = self.repository.find_model(request.model_name, request.model_version)
        with model.served.use():
            asked = await self.service.read_request(
                model, self._read_tensors(model.reader, request)
            )
            with self._memory.open_reservation() as asked.reservation:
                found = await model.infer(asked, within)
            answer = response.build_response(
                asked, found, model.name, model.version, model.signature.labels
            )
            return build_message(answer, request.parameters)

    async def _read_tensors(self, reader: Reader, request: Any) -> InferenceRequest:
        """Read a request, beside the event loop where many values are sent one by one."""
        if request.raw_input_contents or request.ByteSize() <= SHORT_BYTES:
            return read_request(reader, request)
        return await self.service.reading.run(read_request, reader, request)

    # -- the repository ---------------------------------------------------------------------------

    async def list_models(self, request: Any, context: Any) -> Fields:
        return {"models": self.service.list_models(only_ready=request.ready)}

    async def load_model(self, request: Any, context: Any) -> Fields:
        self._admission.check_control(context)
        await self.service.load_model(request.model_name, request.parameters)
        return {}

    async def unload_model(self, request: Any, context: Any) -> Fields:
        self._admission.check_control(context)
        await self.repository.unload(request.model_name)
        return {}

"""The server for gRPC: the Open Inference Protocol v2 and ``grpc.health.v1``.

It runs beside HTTP on the same event loop, and has the same models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from attar.pipeline.core.errors import AttarError
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import RequestError, TooLargeError
from attar.serving.core.ledger import MemoryLedger, Reservation
from attar.serving.grpc.admission import GrpcAdmission
from attar.serving.grpc.calls import (
    COPIES,
    abort_call,
    convert_errors,
    decode_message,
    encode_message,
    list_server_options,
)
from attar.serving.grpc.health import Health
from attar.serving.grpc.messages import HEALTH, SERVICE, HealthCheckRequest, HealthCheckResponse
from attar.serving.grpc.methods import GrpcMethods
from attar.serving.grpc.stream import StreamedInference
from attar.serving.models.service import InferenceService
from attar.serving.protocol.json_data import SHORT_BYTES
from attar.serving.protocol.sizes import largest_message

LEAST_BYTES = 2**20
"""Smallest limit on messages: a model that is loaded later may need more than those of today."""
HOLD_SECONDS = 0.1
"""Time for which calls are held when the server ends, so that none comes at the moment of the end
from a client that waits for the answer to another one."""
log = logging.getLogger(__name__)


class GrpcServer:
    def __init__(
        self, service: InferenceService, authenticator: Authenticator, ledger: MemoryLedger
    ) -> None:
        """The models must be loaded: gRPC takes the limit on messages only once."""
        self.service, self.settings = service, service.settings
        self.address = ""
        """The url at which it listens."""
        self._authenticator, self._ledger = authenticator, ledger
        self._largest = largest = self._find_largest_message()
        self._admission = GrpcAdmission(authenticator, self.settings, ledger, largest)
        self._methods = GrpcMethods(service, self._admission)
        self._streams = StreamedInference(self._methods, service, ledger, largest)
        self.health = Health(service, self._admission)
        self._handlers = {**self._methods.handlers, "Check": self.health.check}
        self._open = asyncio.Event()
        """Whether new calls are begun at once."""
        self._open.set()

    async def start(self) -> None:
        """Listen. Raises AttarError if the address is not free."""
        self._server = grpc.aio.server(options=list_server_options(self.settings, self._largest))
        streams = {"ModelStreamInfer": self._stream_inferences, "Watch": self._watch_health}
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
        wanted = f"{host}:{self.settings.grpc_port}"
        try:
            port = self._open_port(wanted)
        except RuntimeError as error:
            raise AttarError(
                f"cannot listen on {wanted} for gRPC: {error}; choose another with --host and "
                "--grpc-port"
            ) from error
        await self._server.start()
        self.address = f"grpc{'s' if self.settings.tls_cert else ''}://{host}:{port}"

    async def stop(self) -> None:
        """Take no more calls, and answer the others within ``settings.drain`` seconds.

        gRPC answers CANCELLED, after which no client tries again, to a call that comes between the
        beginning of the stop and the moment when its client reads the GOAWAY. So calls are held
        before, and answered behind the GOAWAY: their clients read it before the answer.
        """
        self._streams.end_idle()
        self._open.clear()
        await asyncio.sleep(min(HOLD_SECONDS, self.settings.drain))
        stopped = asyncio.create_task(self._server.stop(self.settings.drain))
        # Behind the first step of the task, which sends the GOAWAY.
        asyncio.get_running_loop().call_soon(self._open.set)
        await stopped

    def _find_largest_message(self) -> int:
        """Return the limit on messages: the largest request, if the ledger has room for it."""
        models = self.service.repository.list_models()
        needs = [largest_message(model.signature, self.settings) for model in models]
        wanted, room = (
            self.settings.max_body or max([LEAST_BYTES, *needs]),
            self._ledger.limit // COPIES,
        )
        if wanted > room:
            log.warning(
                "messages over gRPC have at most %d bytes, a request may need %d; "
                "raise --max-bodies to take longer ones",
                room,
                wanted,
            )
        return min(wanted, room)

    def _open_port(self, address: str) -> int:
        pair = self._authenticator.key_pair()
        if pair is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    def _make_handler(self, method: Any) -> Callable[[Any, Any], Awaitable[bytes]]:
        """Return what gRPC calls for a method with one request.

        It reads, decodes and encodes by itself: gRPC does not end a call whose request never
        comes, and every error has to be one of the protocol.
        """
        name, handler = method.name, self._handlers[method.name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

        async def answer(context: Any) -> bytes:
            await self._open.wait()
            with closing(self._ledger.open_reservation()) as reservation:
                message = await self._read_message(name, asked, context, reservation)
                response = await handler(message, context)
                is_message = not isinstance(response, Mapping)
                return encode_message(response if is_message else answered(**response))

        async def call(_: Any, context: Any) -> bytes:
            async with self._handle_errors(name, context):
                return await answer(context)

        return call

    async def _read_message(
        self, name: str, asked: Any, context: Any, reservation: Reservation
    ) -> Any:
        """Return the request of a call. Raises RequestError."""
        sent = await self._admission.read_message(name, context)
        size = len(sent) if isinstance(sent, bytes) else 0  # nothing comes if a stream has ended
        reservation.add(COPIES * size)
        if name == "ModelInfer":
            return await self._methods.decode(sent, reservation)
        if size > SHORT_BYTES:
            raise TooLargeError(
                f"the message is over {SHORT_BYTES} bytes, which none is that holds no tensors"
            )
        return decode_message(asked, sent)

    async def _stream_inferences(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        await self._open.wait()
        async with self._handle_errors("ModelStreamInfer", context):
            async for response in self._streams.answer_requests(context):
                yield encode_message(response)

    async def _watch_health(self, _: Any, context: Any) -> AsyncIterator[bytes]:
        """Watch the health; needs a token for the server too, as the call has no end of its own."""
        await self._open.wait()
        async with self._handle_errors("Watch", context):
            sent = await self._admission.read_message("Watch", context)
            request = decode_message(HealthCheckRequest, sent)
            async for status in self.health.watch_status(request.service):
                yield encode_message(HealthCheckResponse(status=status))

    @asynccontextmanager
    async def _handle_errors(self, name: str, context: Any) -> AsyncIterator[None]:
        """Count a call while it lasts. An error ends it with its status, and is recorded."""
        try:
            with convert_errors(name), self._admission.count_call(name, context):
                yield
        except RequestError as error:
            self.service.record_refusal(error, method=name)
            await abort_call(context, error)

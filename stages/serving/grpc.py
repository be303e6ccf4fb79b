"""gRPC: the Open Inference Protocol v2 over gRPC, beside HTTP on the same event loop and with the same models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from math import inf
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from attar import __version__
from attar.pipeline.errors import AttarError
from attar.stages.serving import protocol
from attar.stages.serving.api import EXTENSIONS, Api, load
from attar.stages.serving.errors import BadRequest, Busy, EngineFailed, NotFound, Refused, Unauthorized
from attar.stages.serving.grpc_infer import delimited, read, write
from attar.stages.serving.guard import ASK_WITH_TOKEN, Guard
from attar.stages.serving.messages import SERVICE, ModelInferRequest, ModelStreamInferResponse
from attar.stages.serving.settings import Settings

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself calls a message that is too large
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""What gRPC calls an error that has this status in HTTP."""
HEALTH = {f"/{SERVICE.full_name}/{name}" for name in ("ServerLive", "ServerReady")}
INFER_RESPONSE = ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
Answered: TypeAlias = Mapping[str, Any] | bytes
"""The fields of a response, or the response as it goes out."""
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Answered]]
"""Of a request and its context."""
log = logging.getLogger(__name__)


class Rpc:
    """The service and the server that it is reached through."""

    def __init__(self, api: Api, guard: Guard) -> None:
        self.api, self.repository, self.settings = api, api.repository, api.settings
        self.address = ""
        """Where it listens, once it does."""
        self._guard = guard
        self._ending = asyncio.Event()
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
        }

    async def start(self) -> None:
        """Raises AttarError for an address that cannot be had."""
        self._server = grpc.aio.server(
            options=options(self.settings),
            maximum_concurrent_rpcs=self.settings.max_connections,
            interceptors=[Door(self._guard)],
        )
        methods = {name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in self._handlers}
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.stream)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE.full_name, methods)])
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        try:
            port = self._open(f"{host}:{self.settings.grpc_port}")
        except RuntimeError as error:
            asked = f"{host}:{self.settings.grpc_port}"
            raise AttarError(f"cannot listen on {asked} for gRPC: {error}; choose another with --host and --grpc-port") from error
        await self._server.start()
        self.address = f"grpc{'s' if self.settings.tls_cert else ''}://{host}:{port}"

    def _open(self, address: str) -> int:
        pair = self._guard.key_pair()
        if pair is None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

    async def stop(self) -> None:
        """Take no more, and answer what has begun within ``settings.drain`` seconds."""
        self._ending.set()
        await self._server.stop(self.settings.drain)

    def _unary(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Decodes and encodes by itself, so that every error is told as one of the protocol."""
        method, handler = SERVICE.methods_by_name[name], self._handlers[name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)

        async def call(sent: bytes, context: Any) -> bytes:
            try:
                made = await handler(decoded(asked, sent), context)
                return made if isinstance(made, bytes) else bytes(answered(**made).SerializeToString())
            except Refused as error:
                refused = error
            except Exception:
                log.exception("%s failed", name)
                refused = EngineFailed("the server failed; its log says why")
            await context.abort(CODES[refused.status], str(refused), pushback(refused))
            raise refused

        return call

    # -- the server -------------------------------------------------------------------------------------------------

    async def live(self, request: Any, context: Any) -> Answered:
        return {"live": True}

    async def ready(self, request: Any, context: Any) -> Answered:
        return {"ready": self.repository.ready and not self.api.draining}

    async def server(self, request: Any, context: Any) -> Answered:
        return {"name": "attar", "version": __version__, "extensions": EXTENSIONS}

    # -- models -----------------------------------------------------------------------------------------------------

    async def model_ready(self, request: Any, context: Any) -> Answered:
        """An unknown model is not ready, which clients tell from an error."""
        try:
            served = self.repository.model(request.name, request.version).served
        except (NotFound, Busy):
            return {"ready": False}
        return {"ready": served.ready and not self.api.draining}

    async def model(self, request: Any, context: Any) -> Answered:
        return self.repository.metadata(request.name, request.version)

    async def configuration(self, request: Any, context: Any) -> Answered:
        return {"config": self.repository.model(request.name, request.version).configuration()}

    async def statistics(self, request: Any, context: Any) -> Answered:
        """Of every model where none is named."""
        named = [self.repository.model(request.name, request.version)] if request.name else self.repository.models()
        return {"model_stats": [model.told() for model in named]}

    async def infer(self, request: Any, context: Any) -> bytes:
        remaining = context.time_remaining()
        return await self._inferred(request, inf if remaining is None else remaining)

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answers in the order of the requests; an error is told in its place and does not end the stream."""
        async for sent in requests:
            try:
                found = await self._inferred(decoded(ModelInferRequest, sent), inf)
                yield b"".join(delimited(INFER_RESPONSE, found))
            except Refused as error:
                yield ModelStreamInferResponse(error_message=str(error)).SerializeToString()

    async def _inferred(self, request: Any, within: float) -> bytes:
        model = self.repository.model(request.model_name, request.model_version)
        try:
            asked = read(model.reader, request)
        except Refused as error:
            model.failed(error, 0)
            raise
        found = await model.infer(asked, within)
        answer = protocol.answer(asked, found, model.name, model.version, model.signature.labels)
        return write(answer, request.parameters)

    # -- the repository ---------------------------------------------------------------------------------------------

    async def index(self, request: Any, context: Any) -> Answered:
        return {"models": [each for each in self.repository.index() if not request.ready or each["state"] == "READY"]}

    async def load(self, request: Any, context: Any) -> Answered:
        await load(self.repository, request.model_name, request.parameters)
        return {}

    async def unload(self, request: Any, context: Any) -> Answered:
        await self.repository.unload(request.model_name)
        return {}


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets in who has a token, before anything of the message is read; as over HTTP, whoever asks about health needs none."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        sent = [value for name, value in details.invocation_metadata if name == "authorization"]
        if details.method in HEALTH or self._guard.admits(", ".join(sent).encode()):
            return await continuation(details)
        return grpc.stream_stream_rpc_method_handler(refuse)  # which alone is called before a message has come


async def refuse(requests: Any, context: Any) -> None:
    await context.abort(CODES[Unauthorized.status], ASK_WITH_TOKEN)


def options(settings: Settings) -> list[tuple[str, int]]:
    """Of gRPC's server; what they mean says its ``channel_arg_names.h``."""
    return [
        ("grpc.so_reuseport", 0),  # else a second server would take half of the requests without a word
        ("grpc.max_receive_message_length", settings.max_body),
        ("grpc.max_metadata_size", settings.max_header),
        ("grpc.max_connection_idle_ms", int(settings.idle * 1000)),
        ("grpc.server_handshake_timeout_ms", int(settings.slow * 1000)),
    ]


def decoded(asked: Any, sent: bytes) -> Any:
    try:
        return asked.FromString(sent)
    except DecodeError as error:
        raise BadRequest(f"no {asked.DESCRIPTOR.name}: {error}") from error


def pushback(error: Refused) -> tuple[tuple[str, str], ...]:
    """What gRPC's own retries read: in how many milliseconds to try again."""
    return () if error.retry_after is None else (("grpc-retry-pushback-ms", str(error.retry_after * 1000)),)

"""The methods of the protocol's service that answer one request with one response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf
from time import perf_counter_ns
from typing import Any, TypeAlias

from attar.models.task import Array
from attar.serving.core.errors import BusyError, NotFoundError
from attar.serving.core.ledger import Reservation
from attar.serving.grpc.admission import GrpcAdmission
from attar.serving.grpc.infer import (
    QUICK_BYTES,
    InferMessage,
    build_message,
    decode_infer_message,
    is_quick,
    read_request,
)
from attar.serving.models.descriptions import describe_configuration
from attar.serving.models.model import ServedModel
from attar.serving.models.service import InferenceService
from attar.serving.protocol.reader import InferenceReader
from attar.serving.protocol.request import InferenceRequest
from attar.serving.protocol.response import build_response
from attar.serving.protocol.response import is_quick as is_quick_response

Fields: TypeAlias = Mapping[str, Any]
"""Fields of a response."""
Handler: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
"""Called with a request and its context; returns a response, or its fields."""


class GrpcMethods:
    def __init__(self, service: InferenceService, admission: GrpcAdmission) -> None:
        self._service, self._repository = service, service.repository
        self._admission = admission
        self.handlers: Mapping[str, Handler] = {
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
        }

    async def get_liveness(self, request: Any, context: Any) -> Fields:
        return {"live": self._repository.live}

    async def get_readiness(self, request: Any, context: Any) -> Fields:
        return {"ready": self._service.is_ready}

    async def get_server_metadata(self, request: Any, context: Any) -> Fields:
        return self._service.describe_server()

    async def get_model_readiness(self, request: Any, context: Any) -> Fields:
        """An unknown model is not ready, which clients tell from an error."""
        try:
            return {"ready": self._service.is_model_ready(request.name, request.version)}
        except (NotFoundError, BusyError):
            return {"ready": False}

    async def get_model_metadata(self, request: Any, context: Any) -> Fields:
        return self._repository.describe_metadata(request.name, request.version)

    async def get_model_configuration(self, request: Any, context: Any) -> Fields:
        model = self._repository.find_model(request.name, request.version)
        return {"config": describe_configuration(model)}

    async def get_statistics(self, request: Any, context: Any) -> Fields:
        """Return the statistics of a model, or of every model if none is named."""
        return {"model_stats": self._service.collect_statistics(request.name, request.version)}

    async def decode(self, sent: Any, reservation: Reservation) -> InferMessage:
        """Decode a ModelInferRequest, beside the event loop if that may take long."""
        arrived = perf_counter_ns()
        if isinstance(sent, bytes) and len(sent) > QUICK_BYTES:
            read = self._service.reader_thread.run
            return await read(arrived, decode_infer_message, sent, reservation, arrived)
        return decode_infer_message(sent, reservation, arrived)

    async def infer(self, message: InferMessage, context: Any) -> Any:
        remaining = context.time_remaining()
        if remaining is None:
            return await self.infer_within(message, inf)
        passed = (perf_counter_ns() - message.arrived) * 1e-9
        return await self.infer_within(message, passed + remaining)

    async def infer_within(self, message: InferMessage, seconds: float) -> Any:
        """Return a ModelInferResponse within so many seconds from the arrival of the message.

        Raises RequestError.
        """
        request = message.request
        model = self._repository.find_model(request.model_name, request.model_version)
        reading = self._read_message(model.reader, message)
        reply = partial(self._write_reply, message)
        return await model.answer(reading, reply, message.arrived, seconds)

    async def _read_message(
        self, reader: InferenceReader, message: InferMessage
    ) -> InferenceRequest:
        if is_quick(message, reader):
            return read_request(reader, message)
        return await self._service.reader_thread.run(message.arrived, read_request, reader, message)

    async def _write_reply(
        self,
        message: InferMessage,
        model: ServedModel,
        asked: InferenceRequest,
        outputs: Mapping[str, Array],
    ) -> Any:
        """Return a ModelInferResponse, written beside the event loop if that may take long."""
        given = message.request.parameters
        if is_quick_response(asked, outputs, has_json=False):
            return build_reply(given, model, asked, outputs)
        run = self._service.reader_thread.run
        return await run(message.arrived, build_reply, given, model, asked, outputs)

    async def list_models(self, request: Any, context: Any) -> Fields:
        return {"models": self._service.list_models(only_ready=request.ready)}

    async def load_model(self, request: Any, context: Any) -> Fields:
        self._admission.check_control(context)
        await self._service.load_model(request.model_name, request.parameters)
        return {}

    async def unload_model(self, request: Any, context: Any) -> Fields:
        self._admission.check_control(context)
        await self._repository.unload(request.model_name)
        return {}


def build_reply(
    given: Mapping[str, Any],
    model: ServedModel,
    asked: InferenceRequest,
    outputs: Mapping[str, Array],
) -> Any:
    """Return a ModelInferResponse; ``given``: the request's parameters, which are echoed."""
    answer = build_response(asked, outputs, model.name, model.version, model.signature.labels)
    return build_message(answer, given)

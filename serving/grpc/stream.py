"""ModelStreamInfer: the requests on a stream are answered at the same time, so they share batches.

The responses have the order of the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar

import grpc

from attar.serving.core.errors import BusyError, RequestError
from attar.serving.core.ledger import MemoryLedger, Reservation
from attar.serving.grpc.calls import COPIES, convert_errors
from attar.serving.grpc.message_room import MessageRoom
from attar.serving.grpc.messages import ModelStreamInferResponse
from attar.serving.grpc.methods import GrpcMethods
from attar.serving.models.service import InferenceService

T = TypeVar("T")
MAX_PIPELINED = 32
"""Requests of one stream that are read before the first of them is answered."""
PIPELINED_BYTES = 16 * 2**20
"""Size of all these requests beyond which no further one is read."""
GRACE_SECONDS = 1.0
"""Time that a stream stays open without a request when the server ends."""


@dataclass(frozen=True, slots=True)
class StreamedRequest(Generic[T]):
    """A request of a stream until its answer is written."""

    answer: asyncio.Future[T]
    size: int
    reservation: Reservation


class StreamPipeline(Generic[T]):
    """The requests of one stream that are under way."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Any]],
        answer: Callable[[Any, Reservation], Awaitable[T]],
        ledger: MemoryLedger,
    ) -> None:
        self._read, self._answer, self._ledger = read, answer, ledger
        self._begun: asyncio.Queue[StreamedRequest[T] | None] = asyncio.Queue()
        self._requests = self._bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def answer_in_order(self) -> AsyncIterator[T]:
        """Yield the answers, and behind the last one raise what ``read`` has raised.

        The memory of each is reserved until it is written, when the next one is asked for.
        """
        reader = asyncio.create_task(self._read_requests())
        try:
            while (request := await self._begun.get()) is not None:
                with closing(request.reservation):
                    yield await request.answer
                self._count_pending(-1, -request.size)
            await reader
        finally:
            await self._cancel_pending(reader)

    async def _read_requests(self) -> None:
        try:
            while (sent := await self._read()) is not grpc.aio.EOF:
                self._count_pending(1, len(sent))
                self._begun.put_nowait(self._begin_request(sent))
                await self._has_room.wait()
        finally:
            self._begun.put_nowait(None)

    def _begin_request(self, sent: Any) -> StreamedRequest[T]:
        reservation = self._ledger.open_reservation()
        answer = asyncio.ensure_future(self._answer(sent, reservation))
        return StreamedRequest(answer, len(sent), reservation)

    def _count_pending(self, requests: int, size: int) -> None:
        self._requests += requests
        self._bytes += size
        if self._requests < MAX_PIPELINED and self._bytes < PIPELINED_BYTES:
            self._has_room.set()
        else:
            self._has_room.clear()

    async def _cancel_pending(self, reader: asyncio.Future[None]) -> None:
        """Cancel the requests whose answers are not written when the stream is over."""
        reader.cancel()
        await asyncio.wait([reader])
        waiting = [self._begun.get_nowait() for _ in range(self._begun.qsize())]
        left = [request for request in waiting if request]
        for request in left:
            request.answer.cancel()
        # Their errors were raised already, or the client is gone.
        answers = (request.answer for request in left)
        await asyncio.gather(reader, *answers, return_exceptions=True)
        for request in left:
            request.reservation.close()


class StreamedInference:
    """The calls of ModelStreamInfer."""

    def __init__(
        self, methods: GrpcMethods, service: InferenceService, ledger: MemoryLedger, largest: int
    ) -> None:
        """``largest``: bytes of the longest message that gRPC takes in."""
        self._methods, self._service, self._ledger = methods, service, ledger
        self._room = MessageRoom(ledger, largest)
        self._waiting: set[asyncio.Timeout] = set()
        """Limits of the streams that wait for a request."""

    async def answer_requests(self, context: Any) -> AsyncIterator[Any]:
        """Yield the responses in the order of the requests.

        An error stands in the place of its response, with the request's id, and does not end
        the stream. Raises BusyError if no request comes for long.
        """
        read = partial(self._room.read, partial(self._read_message, context))
        pipeline = StreamPipeline(read, self._infer, self._ledger)
        async for response in pipeline.answer_in_order():
            yield response

    def end_idle(self) -> None:
        """End the streams that get no request within a moment."""
        for limit in self._waiting:
            limit.reschedule(asyncio.get_running_loop().time() + GRACE_SECONDS)

    async def _read_message(self, context: Any) -> Any:
        seconds = GRACE_SECONDS if self._service.draining else self._service.settings.idle
        try:
            async with asyncio.timeout(seconds) as limit:
                self._waiting.add(limit)
                return await context.read()
        except TimeoutError:
            raise BusyError(
                "no request came on the stream for long, or the server ends; open another"
            ) from None
        finally:
            self._waiting.discard(limit)

    async def _infer(self, sent: bytes, reservation: Reservation) -> Any:
        response = await self._answer_message(sent, reservation)
        reservation.hold_reply(response.ByteSize())
        return response

    async def _answer_message(self, sent: bytes, reservation: Reservation) -> Any:
        request_id = ""
        try:
            with convert_errors("ModelStreamInfer"):
                reservation.add(COPIES * len(sent))
                message = await self._methods.decode(sent, reservation)
                request_id = message.request.id
                response = await self._methods.infer_within(message, inf)
                return ModelStreamInferResponse(infer_response=response)
        except RequestError as error:
            self._service.record_refusal(error, method="ModelStreamInfer")
            return ModelStreamInferResponse(
                error_message=str(error), infer_response={"id": request_id}
            )

"""A model, which clients ask by name, and the loaded bundle behind it.

A bundle with steps makes two models: one for its graph, one for raw inputs, such as texts, whose
answers are texts where steps make them of tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from time import perf_counter_ns
from typing import TypeVar

from attar.models.task import Array
from attar.serving.core.errors import BusyError, DeadlineError
from attar.serving.core.settings import Settings
from attar.serving.models.batcher import Batcher, BatchLimits
from attar.serving.models.calls import EngineCall
from attar.serving.models.engines import Engines, open_engines
from attar.serving.models.observer import Observer
from attar.serving.models.preprocessor import Preprocessor
from attar.serving.models.statistics import Statistics
from attar.serving.protocol.reader import InferenceReader
from attar.serving.protocol.request import InferenceRequest, RequestTiming
from attar.serving.protocol.signature import Signature

T = TypeVar("T")
HANG_SECONDS = 30.0
"""Time after which an engine that does not return hangs; the deadline where that is longer."""
RAW = "-raw"
"""Suffix of the name of the model for raw inputs."""


class LoadedBundle:
    """A bundle that is served: its engines, and the models that use them."""

    def __init__(
        self,
        name: str,
        path: Path,
        engines: Engines,
        settings: Settings,
        observers: Iterable[Observer] = (),
    ) -> None:
        """Must be called on the event loop that serves it."""
        self.name, self.path, self.engines, self.settings = name, path, engines, settings
        self.observers = tuple(observers)
        limits = BatchLimits(
            engines.most, settings.preferred, settings.queue, engines.joining, engines.inline
        )
        self.batcher = Batcher(engines.predicts, limits, engines.probe, self._notify_batch)
        self.active = 0
        """Number of requests that are being read, are waiting or are being answered."""
        self.models = [ServedModel(name, self, engines.graph)]
        self._preprocessor = Preprocessor(engines, settings.max_pixels, settings.inline_below)
        if engines.raw:
            self.models.append(ServedModel(name + RAW, self, engines.raw, self._preprocessor))

    @classmethod
    async def open(
        cls, name: str, path: Path, settings: Settings, observers: Iterable[Observer] = ()
    ) -> LoadedBundle:
        """Open a bundle in a thread, without disturbing the bundles that are served.

        Raises InvalidBundleError.
        """
        engines = await asyncio.to_thread(open_engines, path, settings)
        try:
            bundle = cls(name, path, engines, settings, observers)
        except BaseException:
            await asyncio.to_thread(engines.close)
            raise
        try:
            for observer in bundle.observers:
                await asyncio.to_thread(observer.on_load, bundle)
        except BaseException:
            await bundle.retire()
            raise
        return bundle

    @property
    def version(self) -> str:
        return self.engines.version

    @property
    def ready(self) -> bool:
        if self.batcher.has_failed or self.hangs:
            return False
        return all(observer.is_ready(self) for observer in self.observers)

    @property
    def hangs(self) -> bool:
        """Whether no engine returns any more."""
        return self.batcher.hangs(max(HANG_SECONDS, self.settings.deadline))

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the bundle open from before a request is read until it is answered."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    async def retire(self) -> None:
        """Wait for the requests in progress, then close the engines. No new request may come."""
        while self.active:
            await asyncio.sleep(0.01)
        # In threads, as the calls of requests that were given up may still run.
        await asyncio.to_thread(self.batcher.close)
        await asyncio.to_thread(self._preprocessor.close)
        for observer in self.observers:
            await asyncio.to_thread(observer.on_retire, self)
        await asyncio.to_thread(self.engines.close)
        # Both refer back to this bundle, and the garbage collector skips what was loaded at the
        # start of the server.
        self.models.clear()
        del self.batcher

    def _notify_batch(self, call: EngineCall) -> None:
        """Count a call for each model with a request in it, or for the graph's if none had one."""
        names = call.models or (self.name,)
        for model in self.models:
            if model.name in names:
                for observer in model.observers:
                    observer.on_batch(model, call.rows, call.nanoseconds)


class ServedModel:
    """One name of a served bundle."""

    def __init__(
        self,
        name: str,
        served: LoadedBundle,
        signature: Signature,
        preprocessor: Preprocessor | None = None,
    ) -> None:
        self.name, self.served, self.signature = name, served, signature
        self.reader = InferenceReader(
            signature, served.settings, preprocessor.check_shapes if preprocessor else None
        )
        self.statistics = Statistics()
        self.observers = (self.statistics, *served.observers)
        self._preprocessor = preprocessor
        self._is_inline = served.engines.inline and preprocessor is None

    @property
    def version(self) -> str:
        return self.served.version

    async def answer(
        self,
        reading: Awaitable[InferenceRequest],
        reply: Callable[[ServedModel, InferenceRequest, dict[str, Array]], Awaitable[T]],
        arrived: int,
        seconds: float = inf,
    ) -> T:
        """Read a request, infer, and return the reply that is made of all outputs of the model.

        The observers are told once: of the response, or of what was raised. It takes at most
        ``seconds`` from ``arrived``, by ``perf_counter_ns``. Raises RequestError.
        """
        self.served.active += 1
        try:
            request = await reading
            outputs, times, answers = await self._infer(request, arrived, seconds)
            made = await reply(self, request, answers)
        except (Exception, asyncio.CancelledError) as error:
            for observer in self.observers:
                observer.on_error(self, error, perf_counter_ns() - arrived)
            raise
        else:
            for observer in self.observers:
                observer.on_response(self, request, outputs, times)
            return made
        finally:
            self.served.active -= 1

    def limit_seconds(self, request: InferenceRequest, seconds: float = inf) -> float:
        """Return the least of what the server, the transport and the request allow."""
        return min(request.timeout or inf, seconds, self.served.settings.deadline)

    async def prepare(self, request: InferenceRequest) -> None:
        """Replace ``request.inputs`` with the graph's own. Raises RequestError."""
        if self._preprocessor is None:
            return
        served, reservation = self.served, request.reservation
        waiting = self._preprocessor.waiting + served.batcher.waiting
        if waiting >= served.settings.queue:
            raise BusyError(f"{waiting} requests wait already; try again later")
        request.inputs = await self._preprocessor.run(request.inputs, reservation)
        if reservation:
            reservation.add(sum(array.nbytes for array in request.inputs.values()))
        graph = served.models[0].signature
        shapes = {name: array.shape for name, array in request.inputs.items()}
        request.rows = graph.count_rows(shapes)
        graph.check_values(request.inputs)

    async def convert_outputs(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Return the model's answers for the graph's outputs. Raises EngineFailedError."""
        if self._preprocessor is None:
            return outputs
        return await self._preprocessor.convert_outputs(outputs)

    async def _infer(
        self, request: InferenceRequest, arrived: int, seconds: float
    ) -> tuple[dict[str, Array], RequestTiming, dict[str, Array]]:
        """Return the outputs of the graph, times, and the answers that the outputs become."""
        limit = self.limit_seconds(request, seconds)
        if self._is_inline:
            # No timer, which costs a tenth of a request: the batcher itself checks the deadline,
            # and the queue lasts no longer than a turn of the event loop or the longest request.
            outputs, times = await self._submit(request, arrived, limit)
            return outputs, times, outputs
        return await run_within(self._infer_beside(request, arrived, limit), arrived, limit)

    async def _infer_beside(
        self, request: InferenceRequest, arrived: int, limit: float
    ) -> tuple[dict[str, Array], RequestTiming, dict[str, Array]]:
        outputs, times = await self._submit(request, arrived, limit)
        return outputs, times, await self.convert_outputs(outputs)

    async def _submit(
        self, request: InferenceRequest, arrived: int, limit: float
    ) -> tuple[dict[str, Array], RequestTiming]:
        started = perf_counter_ns()
        if self._preprocessor is not None:
            await self.prepare(request)
        prepared, batcher = perf_counter_ns(), self.served.batcher
        left = limit - (prepared - arrived) * 1e-9
        if left <= 0:
            raise late_error(limit)
        work = batcher.submit(request.inputs, request.rows, left, self.name)
        try:
            outputs = await work.future
        except asyncio.CancelledError:
            batcher.drop_request(work)
            raise
        request.times = times = RequestTiming(
            prepared - started, work.started - work.arrived, work.ended - work.started, work.shared
        )
        return outputs, times


async def run_within(work: Awaitable[T], arrived: int, limit: float) -> T:
    """Return what ``work`` returns within so many seconds from an arrival.

    Raises DeadlineError.
    """
    try:
        async with asyncio.timeout(limit - (perf_counter_ns() - arrived) * 1e-9):
            return await work
    except TimeoutError as error:
        raise late_error(limit) from error


def late_error(limit: float) -> DeadlineError:
    return DeadlineError(f"there was no answer within {limit:g} s")

"""Model: what a caller addresses by name.

A bundle with preprocessing steps makes two, for its graph and for raw inputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from attar.bundle.manifest import Manifest
from attar.models import preprocess
from attar.models.preprocess import DecodeImage, Resize, Step
from attar.models.preprocess.images import count_step_pixels
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.pipeline.keys import machine
from attar.serving.core.errors import (
    BadRequestError,
    BusyError,
    DeadlineError,
    RequestError,
    TooLargeError,
)
from attar.serving.core.ledger import Reservation
from attar.serving.core.settings import Settings
from attar.serving.models.batcher import Batcher, BatchLimits
from attar.serving.models.calls import EngineCall
from attar.serving.models.engines import Engines, open_engines
from attar.serving.models.instances import runs_on_gpu
from attar.serving.models.observer import Observer
from attar.serving.models.statistics import Statistics
from attar.serving.protocol.reader import Reader
from attar.serving.protocol.request import InferenceRequest, RequestTiming
from attar.serving.protocol.signature import BYTES, Signature, describe_tensor

RAW = "-raw"
"""Behind a name: the same with raw inputs."""
PIXEL_BYTES = 11
"""While a picture is decoded and resized: what Pillow holds, and the arrays that are made of it.
Measured with a PNG."""
Preprocess = Callable[[Arrays, Reservation | None], dict[str, Array]]


class LoadedBundle:
    """A bundle that is being served: its engines, and the models that are reached through them."""

    def __init__(
        self,
        name: str,
        path: Path,
        engines: Engines,
        settings: Settings,
        observers: Iterable[Observer] = (),
    ) -> None:
        """On the event loop that it will live on."""
        self.name, self.path, self.engines, self.settings = name, path, engines, settings
        self.observers = tuple(observers)
        limits = BatchLimits(
            engines.most, settings.preferred, settings.queue, engines.joins, engines.inline
        )
        self.batcher = Batcher(engines.predicts, limits, engines.probe, self._on_engine_call)
        self.active = 0
        """Requests on their way, those that are read or wait for their turn among them."""
        self.models = [Model(name, self, engines.graph)]
        if engines.raw:
            self.models.append(Model(name + RAW, self, engines.raw, self._prepare))
        self._threads = ThreadPoolExecutor(
            max(machine.count_cores(), len(engines.predicts)), "prepare"
        )

    @classmethod
    async def open(
        cls, name: str, path: Path, settings: Settings, observers: Iterable[Observer] = ()
    ) -> LoadedBundle:
        """Open a bundle beside whatever is served: all that takes time is done in a thread.

        Raises InvalidBundleError.
        """
        engines = await asyncio.to_thread(open_engines, path, settings)
        try:
            made = cls(name, path, engines, settings, observers)
        except BaseException:
            await asyncio.to_thread(engines.close)
            raise
        try:
            for observer in made.observers:
                await asyncio.to_thread(observer.on_load, made)
        except BaseException:
            await made.retire()
            raise
        return made

    @property
    def version(self) -> str:
        return self.engines.version

    @property
    def ready(self) -> bool:
        return not self.batcher.has_failed and all(
            observer.is_ready(self) for observer in self.observers
        )

    async def run_preprocess(
        self, prepare: Preprocess, inputs: Arrays, reservation: Reservation | None
    ) -> dict[str, Array]:
        """Decoding an image may take long, so it never holds up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, prepare, inputs, reservation
        )

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the bundle open for a request, from before its body is read until it is answered."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    async def retire(self) -> None:
        """Answer what is on its way, then close, and let go of the engines. Nothing new may
        come."""
        while self.active:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(
            self.batcher.close
        )  # in a thread, as calls that were given up may still compute
        await asyncio.to_thread(self._threads.shutdown)
        for observer in self.observers:
            await asyncio.to_thread(observer.on_retire, self)
        await asyncio.to_thread(self.engines.close)
        self.models.clear()
        # As the models do, it leads back here, and the garbage collector passes over what was
        # loaded at the start.
        del self.batcher

    def _prepare(self, raw: Arrays, reservation: Reservation | None) -> dict[str, Array]:
        """``reservation``: of the pictures' pixels, held until they are prepared, even where
        nobody waits for it any more."""
        steps = self.engines.manifest.preprocess
        try:
            found = count_pixels(steps, raw, self.settings.max_pixels)
            if reservation:
                reservation.add(found * PIXEL_BYTES)
            return preprocess.apply(steps, raw)
        finally:
            if reservation:
                reservation.close()

    def _on_engine_call(self, call: EngineCall) -> None:
        """A call counts once for each model that had a request in it, and for the graph's own
        where none had."""
        names = call.models or (self.name,)
        for model in self.models:
            if model.name in names:
                model.notify_batch(call.rows, call.nanoseconds)


class Model:
    """One name of a served bundle."""

    def __init__(
        self,
        name: str,
        served: LoadedBundle,
        signature: Signature,
        prepare: Preprocess | None = None,
    ) -> None:
        self.name, self.served, self.signature = name, served, signature
        self.reader = Reader(signature, served.settings)
        self.statistics = Statistics()
        self._observers = (self.statistics, *served.observers)
        self._prepare = prepare
        self._at_once = served.engines.inline and prepare is None

    @property
    def version(self) -> str:
        return self.served.version

    def describe_metadata(self) -> dict[str, Any]:
        """Return the protocol's metadata; whether gates were passed stands where every client
        shows it, and so does the key that signed the bundle where one was asked for."""
        manifest = self.served.engines.manifest
        gates = (
            "ungated"
            if self.served.settings.allow_ungated and not has_passed_gates(manifest)
            else "passed"
        )
        runtime, key = manifest.engine.runtime, self.served.engines.key
        signed = {"signed_by": key} if key else {}
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": runtime if gates == "passed" else f"{runtime}_ungated",
            "inputs": [describe_tensor(spec) for spec in self.signature.inputs.values()],
            "outputs": [describe_tensor(spec) for spec in self.signature.outputs.values()],
            "properties": {
                "gates": gates,
                "precision": manifest.engine.precision,
                "task": manifest.task,
                **signed,
            },
        }

    def describe_configuration(self) -> dict[str, Any]:
        """What Triton's model configuration extension tells of it, as far as it means something
        here."""
        limits = self.served.batcher.limits
        described = self.describe_metadata()
        engines = self.served.engines
        kind = "KIND_GPU" if runs_on_gpu(engines.manifest.engine) else "KIND_CPU"
        groups = [{"kind": kind, "count": len(engines.predicts)}]
        return {
            "name": self.name,
            "platform": described["platform"],
            "max_batch_size": limits.most if self.signature.is_batched else 0,
            **{
                kind: [
                    describe_configured_tensor(each, self.signature.is_batched)
                    for each in described[f"{kind}s"]
                ]
                for kind in ("input", "output")
            },
            "instance_group": groups,
            "dynamic_batching": {
                "preferred_batch_size": list(limits.preferred),
                "max_queue_delay_microseconds": 0,
            },
        }

    def describe_statistics(self) -> dict[str, Any]:
        """Return its entry in ``model_stats``."""
        return self.statistics.to_json(self.name, self.version)

    async def infer(self, infer: InferenceRequest, within: float = inf) -> dict[str, Array]:
        """All outputs of the graph within so many seconds; ``infer.inputs`` are then the graph's
        own. Raises RequestError.

        The caller has the bundle in use.
        """
        served, arrived = self.served, perf_counter_ns()
        try:
            seconds = min(infer.timeout or inf, within, served.settings.deadline)
            if (
                self._at_once
            ):  # the queue is as long as a turn of the loop, so it looks after deadlines by itself
                outputs, times = await self._submit(infer, arrived, seconds)
            else:
                outputs, times = await self._submit_within(infer, arrived, seconds)
        except (RequestError, asyncio.CancelledError) as error:
            self.notify_error(error, perf_counter_ns() - arrived)
            raise
        infer.times = times
        for observer in self._observers:
            observer.on_response(self, infer, outputs, times)
        return outputs

    def notify_error(self, error: BaseException, nanoseconds: int) -> None:
        """Tell the observers of a request that got no answer."""
        for observer in self._observers:
            observer.on_error(self, error, nanoseconds)

    def notify_batch(self, rows: int, nanoseconds: int) -> None:
        """Tell the observers that the engine was called."""
        for observer in self._observers:
            observer.on_batch(self, rows, nanoseconds)

    async def _submit_within(
        self, infer: InferenceRequest, arrived: int, seconds: float
    ) -> tuple[dict[str, Array], RequestTiming]:
        try:
            async with asyncio.timeout(seconds):
                return await self._submit(infer, arrived, seconds)
        except TimeoutError as error:
            raise DeadlineError(f"there was no answer within {seconds:g} s") from error

    async def _submit(
        self, infer: InferenceRequest, arrived: int, seconds: float
    ) -> tuple[dict[str, Array], RequestTiming]:
        if self._prepare:
            await self.prepare(infer)
        prepared, batcher = perf_counter_ns(), self.served.batcher
        work = batcher.submit(infer.inputs, infer.rows, seconds, self.name)
        try:
            outputs = await work.future
        except asyncio.CancelledError:
            batcher.drop_request(work)
            raise
        return outputs, RequestTiming(
            prepared - arrived, work.started - work.arrived, work.ended - work.started, work.shared
        )

    async def prepare(self, infer: InferenceRequest) -> None:
        """Replace ``infer.inputs`` by the graph's own. Raises RequestError."""
        served, prepare = self.served, self._prepare
        if prepare is None:
            return
        if served.active > served.settings.queue:
            raise BusyError(f"{served.active} requests are on their way already; try again later")
        ledger = infer.reservation.ledger if infer.reservation else None
        try:
            infer.inputs = await served.run_preprocess(
                prepare, infer.inputs, ledger.open_reservation() if ledger else None
            )
        except RequestError:
            raise
        except AttarError as error:
            raise BadRequestError(str(error)) from error
        if infer.reservation:
            infer.reservation.add(sum(array.nbytes for array in infer.inputs.values()))
        graph = served.models[0].signature
        infer.rows = graph.count_rows({name: array.shape for name, array in infer.inputs.items()})
        graph.check_values(infer.inputs)


def count_pixels(preprocess: Mapping[str, Sequence[Step]], raw: Arrays, most: int) -> int:
    """Their pixels, by the headers of files and the shapes of arrays, before any is decoded or
    resized. Raises TooLargeError."""
    growing = {
        name: steps
        for name, steps in preprocess.items()
        if any(isinstance(step, DecodeImage | Resize) for step in steps)
    }
    found = sum(
        count_step_pixels(steps, picture)
        for name, steps in growing.items()
        for picture in raw[name]
    )
    if found > most:
        raise TooLargeError(
            f"the pictures have {found:,} pixels, decoded or resized; {most:,} a request are "
            "allowed, so send fewer"
        )
    return found


def has_passed_gates(manifest: Manifest) -> bool:
    return manifest.verdict.verdict == "passed" and manifest.verdict.is_gated


def describe_configured_tensor(tensor: Mapping[str, Any], batched: bool) -> dict[str, Any]:
    """Return a tensor of the metadata as the configuration has it: the batch axis goes without
    saying."""
    kind = "STRING" if tensor["datatype"] == BYTES else tensor["datatype"]
    return {
        "name": tensor["name"],
        "data_type": f"TYPE_{kind}",
        "dims": tensor["shape"][1:] if batched else tensor["shape"],
    }

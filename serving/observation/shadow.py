"""Shadow: a sample of the traffic is answered again by a model that is trusted, and both are held
against each other.

It never slows what it watches: a request is chosen by one random number and put into a bounded
queue, or dropped where that is full; a thread does all else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Queue
from random import Random
from threading import Lock
from time import perf_counter_ns
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from attar.bundle.engines import open_reference
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.serving.core import logs
from attar.serving.core.errors import BusyError
from attar.serving.core.ledger import MemoryLedger
from attar.serving.core.settings import Settings
from attar.serving.models.engines import Engines
from attar.serving.models.observer import ObservedBundle, ObservedModel, Observer
from attar.serving.observation.rolling import RollingAgreement
from attar.serving.protocol.request import InferenceRequest, RequestTiming

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

FP32 = "fp32"
OUTCOMES = ("compared", "dropped", "failed")
SHARE = 4
"""Requests that wait for the shadow may take one of so many parts of the ledger."""
GATHER = 0.1
"""Interval between looks at the queue."""
Pair: TypeAlias = tuple[Arrays, Arrays]
"""Inputs and outputs of a request."""
HELP = {
    "correlation": (
        "Rolling CORR with the shadow: Pearson's r, of logits centred by sample, "
        "of embeddings of cosines of pairs."
    ),
    "cosine": "Rolling mean cosine of an embedding with the shadow's.",
    "agreement": "Rolling share of rows with the shadow's most likely class, or with its tokens.",
    "kdl": "Rolling mean KL divergence from the shadow's softmax, in nats.",
}
log = logging.getLogger(__name__)


class BundleShadow:
    """The shadow of one served bundle."""

    def __init__(
        self, engines: Engines, predict: Predict, stack: ExitStack, settings: Settings
    ) -> None:
        self.predict, self._stack = predict, stack
        kinds = {name: output.kind for name, output in engines.manifest.outputs.items()}
        self.rolling = RollingAgreement(kinds, settings)
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self._using = Lock()
        self._closed = False

    def compare(self, sample: Sequence[Pair]) -> None:
        """Compare pairs of the same shapes.

        Raises StageError for outputs that are not finite, and whatever the shadow raises.
        """
        with self._using:
            if self._closed:
                return
            expected = join_arrays([self.predict(inputs) for inputs, _ in sample])
            got = join_arrays([outputs for _, outputs in sample])
            for name in self.rolling.windows:
                if not (np.isfinite(expected[name]).all() and np.isfinite(got[name]).all()):
                    raise StageError(f"{name!r} is not finite")
            self.rolling.add_samples(expected, got)
            self.counts["compared"] += len(sample)

    def answer(self, inputs: Arrays) -> tuple[Arrays, int]:
        """Return the outputs for a request from the page, and the nanoseconds that they took.

        It is not counted. Raises whatever the shadow raises.
        """
        with self._using:
            if self._closed:
                raise BusyError("the model was replaced just now; ask again")
            began = perf_counter_ns()
            return self.predict(inputs), perf_counter_ns() - began

    def close(self) -> None:
        with self._using:
            self._closed = True
            self._stack.close()


class ShadowObserver(Observer):
    """The shadows of all bundles of a server."""

    def __init__(self, settings: Settings, ledger: MemoryLedger) -> None:
        self.settings = settings
        self._waiting = ledger.open_part(SHARE)
        self._random, self._rate = Random(settings.shadow_seed), settings.shadow_rate  # noqa: S311  # a sample is no secret
        self._of: dict[ObservedBundle, BundleShadow] = {}
        self._queue: Queue[tuple[BundleShadow, Pair]] = Queue(settings.shadow_queue)

    def on_load(self, served: ObservedBundle) -> None:
        self._of[served] = open_shadow(served, self.settings)

    def on_retire(self, served: ObservedBundle) -> None:
        if mine := self._of.pop(served, None):
            mine.close()

    def find_shadow(self, served: ObservedBundle) -> BundleShadow:
        """Return the shadow of a bundle that is served."""
        return self._of[served]

    def is_ready(self, served: ObservedBundle) -> bool:
        mine = self._of.get(served)
        return mine is None or mine.rolling.ready

    def on_response(
        self,
        model: ObservedModel,
        infer: InferenceRequest,
        outputs: Mapping[str, Array],
        times: RequestTiming,
    ) -> None:
        if self._random.random() >= self._rate:
            return
        mine, size = self._of[model.served], count_bytes([(infer.inputs, outputs)])
        if self._queue.full() or not self._waiting.try_reserve(size):
            mine.counts["dropped"] += 1
            return
        # Copies: the outputs of a batch are views of one array, which each would keep whole.
        own = {name: array.copy() for name, array in outputs.items()}
        self._queue.put_nowait((mine, (infer.inputs, own)))

    async def run(self) -> None:
        """Compare the waiting requests at intervals: together they take far less time."""
        while True:
            await asyncio.sleep(GATHER)
            is_due = any(mine.rolling.is_due for mine in list(self._of.values()))
            if is_due or not self._queue.empty():
                await asyncio.to_thread(self._compare_waiting)

    def _compare_waiting(self) -> None:
        groups: dict[object, tuple[BundleShadow, list[Pair]]] = {}
        for _ in range(self._queue.qsize()):
            mine, pair = self._queue.get_nowait()
            groups.setdefault((mine, shapes_of_pair(pair)), (mine, []))[1].append(pair)
        for key in list(groups):
            mine, sample = groups.pop(key)
            try:
                mine.compare(sample)
            except Exception as error:  # noqa: BLE001  # whatever a shadow raises, it is told and the next compared
                mine.counts["failed"] += len(sample)
                log.warning(
                    "requests were not compared with their shadow",
                    extra=logs.log_fields(error=str(error)),
                )
            finally:
                self._waiting.release(count_bytes(sample))
                del sample
        for mine in list(self._of.values()):
            mine.rolling.compute_if_due()

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels = ["model", "version"]
        requests = CounterMetricFamily(
            "attar_shadow_requests", "Requests in the sample.", labels=[*labels, "outcome"]
        )
        samples = GaugeMetricFamily(
            "attar_shadow_samples",
            "Samples that the rolling numbers are of.",
            labels=[*labels, "output"],
        )
        rolling = {
            name: GaugeMetricFamily(f"attar_shadow_{name}", said, labels=[*labels, "output"])
            for name, said in HELP.items()
        }
        latest = {(served.name, served.version): mine for served, mine in list(self._of.items())}
        for which, mine in latest.items():
            for outcome, count in mine.counts.items():
                requests.add_metric([*which, outcome], count)
            for output, told in mine.rolling.latest.items():
                samples.add_metric([*which, output], told.samples)
                for name, number in told.numbers.items():
                    rolling[name].add_metric([*which, output], number)
        yield from (requests, samples, *rolling.values())
        yield GaugeMetricFamily(
            "attar_shadow_queue_requests",
            "Requests that wait to be answered again.",
            value=self._queue.qsize(),
        )


def count_bytes(sample: Sequence[Pair]) -> int:
    return sum(array.nbytes for pair in sample for side in pair for array in side.values())


def shapes_of_pair(pair: Pair) -> tuple[tuple[int, ...], ...]:
    """Return what is equal for pairs that can be joined."""
    return tuple(array.shape[1:] for side in pair for array in side.values())


def join_arrays(arrays: Sequence[Arrays]) -> dict[str, Array]:
    return {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}


def open_shadow(served: ObservedBundle, settings: Settings) -> BundleShadow:
    """Open the shadow of a bundle, and try it on the golden requests.

    Raises InvalidBundleError if it cannot stand for the bundle.
    """
    engines = served.engines
    with ExitStack() as stack:
        if settings.shadow == FP32:
            predict: Predict = stack.enter_context(
                open_reference(engines.root, engines.manifest, threads=1)
            )
        else:
            predict = open_teacher(Path(str(settings.shadow)), stack)
        check_shadow(predict, engines, f"--shadow {settings.shadow} cannot stand for {served.name}")
        return BundleShadow(engines, predict, stack.pop_all(), settings)


def open_teacher(file: Path, stack: ExitStack) -> Predict:
    """Raises InvalidBundleError for what is no ONNX graph."""
    from attar.engines.runtimes import onnxruntime

    if not file.is_file():
        raise InvalidBundleError(
            f"--shadow {file} is no file; give {FP32}, or an ONNX file with the inputs of the graph"
        )
    try:
        return stack.enter_context(onnxruntime.open_session({"model": file}, threads=1))
    except StageError as error:
        raise InvalidBundleError(f"--shadow {file}: {error}") from error


def check_shadow(predict: Predict, engines: Engines, problem: str) -> None:
    """Raises InvalidBundleError unless it takes the graph's inputs, few and many samples of them,
    and answers in the shapes of the engine."""
    many = {
        name: np.resize(array, (engines.most, *array.shape[1:]))
        for name, array in engines.probe.items()
    }
    for inputs in (engines.probe, many) if engines.graph.is_batched else (engines.probe,):
        try:
            got = predict(inputs)
        except StageError as error:
            raise InvalidBundleError(
                f"{problem}: {error}; export it with the inputs of the graph"
            ) from error
        for name, expected in engines.predicts[0](inputs).items():
            if name not in got:
                raise InvalidBundleError(
                    f"{problem}: it has no output {name!r}, it has {', '.join(got)}; name its "
                    "outputs as the graph does"
                )
            if got[name].shape != expected.shape:
                found, wanted = list(got[name].shape), list(expected.shape)
                raise InvalidBundleError(
                    f"{problem}: {name!r} has the shape {found}, expected {wanted}; give a "
                    "teacher of the same task"
                )

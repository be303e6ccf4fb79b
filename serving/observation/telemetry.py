"""Telemetry: what happens to requests, in numbers for Prometheus.

A request is appended to a list and counted together with those around it: the event loop alone does
so, without a lock. Prometheus' own library, which locks at every addition, only writes the page.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from attar.models.task import Array
from attar.pipeline.core.version import VERSION
from attar.serving.core.errors import EngineFailedError, RequestError
from attar.serving.models.descriptions import describe_metadata
from attar.serving.models.observer import ObservedBundle, ObservedModel, Observer
from attar.serving.models.repository import Repository
from attar.serving.protocol.request import InferenceRequest, RequestTiming

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

MODEL = ("model", "version")
"""The labels of everything that belongs to a model."""
SECONDS = tuple(float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2.5, 5))
ROWS = tuple(2.0**power for power in range(11))
PHASES = ("prepare", "queue", "compute", "total")
GONE = "client_gone"
"""The outcome of a request whose client did not wait for it."""
RECENT = 4 * 1024
"""Numbers, four of each answered request, that are counted together."""


class Collector(Protocol):
    """A source of metrics."""

    def collect(self) -> Iterable[Metric]: ...


class BucketCounts:
    """Counts of values by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.total = np.array(bounds), 0.0
        self.counts = np.zeros(len(bounds) + 1, np.int64)

    def add(self, values: npt.NDArray[np.float64], times: npt.NDArray[np.int64]) -> None:
        """Count each value as often as ``times`` says."""
        np.add.at(self.counts, np.searchsorted(self.bounds, values), times)
        self.total += float(values @ times)

    def list_buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus' buckets: how many are at most each bound."""
        return list(
            zip(
                [*map(str, self.bounds.tolist()), "+Inf"],
                self.counts.cumsum().tolist(),
                strict=True,
            )
        )


class ModelCounts:
    """The counts of one version of one model."""

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = defaultdict(int)
        self.batches: dict[int, int] = defaultdict(int)
        """Number of calls of the engine by number of rows."""
        self.seconds = {phase: BucketCounts(SECONDS) for phase in PHASES}
        self.rows = 0
        self.recent: list[int] = []
        """Preparing, queue and compute in nanoseconds, and rows, of each request that is not
        counted yet: flat, as tuples would keep the garbage collector busy."""

    def fold_recent(self) -> None:
        """Count the recent requests together, which costs far less than one by one."""
        recent = np.array(self.recent, np.int64).reshape(-1, 4)
        self.recent.clear()
        self.outcomes["ok"] += len(recent)
        self.rows += int(recent[:, 3].sum())
        for histogram, taken in zip(
            self.seconds.values(), [*recent.T[:3], recent[:, :3].sum(1)], strict=True
        ):
            histogram.add(taken * 1e-9, np.ones(len(taken), np.int64))


class Telemetry(Observer):
    """Counts for Prometheus, in a registry of its own: a process may have two servers."""

    def __init__(self) -> None:
        self.collectors: list[Collector] = [self]
        """The sources of metrics; more may be added before the first scrape."""
        self._counts: dict[tuple[str, str], ModelCounts] = defaultdict(ModelCounts)
        self._of: dict[ObservedModel, ModelCounts] = {}
        """The counts of each model that is served."""
        self._errors: dict[str, int] = defaultdict(int)

    def on_load(self, served: ObservedBundle) -> None:
        self._of |= {model: self._counts[model.name, model.version] for model in served.models}

    def on_retire(self, served: ObservedBundle) -> None:
        for model in served.models:
            self._of.pop(model, None)

    def on_response(
        self,
        model: ObservedModel,
        infer: InferenceRequest,
        outputs: Mapping[str, Array],
        times: RequestTiming,
    ) -> None:
        counts = self._of[model]
        counts.recent += (times.prepare, times.queue, times.compute, infer.rows)
        if len(counts.recent) >= RECENT:
            counts.fold_recent()

    def on_error(self, model: ObservedModel, error: BaseException, nanoseconds: int) -> None:
        self._of[model].outcomes[name_outcome(error)] += 1

    def on_batch(self, model: ObservedModel, rows: int, nanoseconds: int) -> None:
        self._of[model].batches[rows] += 1

    def on_refusal(self, error: RequestError) -> None:
        self._errors[error.cause] += 1

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "attar_requests",
            "Requests to a model, by outcome: ok, or why there was no answer.",
            labels=[*MODEL, "outcome"],
        )
        rows = CounterMetricFamily(
            "attar_rows", "Samples in requests that were answered.", labels=MODEL
        )
        seconds = HistogramMetricFamily(
            "attar_request_seconds",
            "Of answered requests; compute is that of the whole batch.",
            labels=[*MODEL, "phase"],
        )
        batches = HistogramMetricFamily(
            "attar_batch_rows", "Samples in a call of the engine.", labels=MODEL
        )
        for labels, counts in list(self._counts.items()):
            counts.fold_recent()
            rows.add_metric(labels, counts.rows)
            calls = BucketCounts(ROWS)
            calls.add(
                np.array([*counts.batches], np.float64),
                np.array([*counts.batches.values()], np.int64),
            )
            batches.add_metric(labels, calls.list_buckets(), calls.total)
            for outcome, count in counts.outcomes.items():
                requests.add_metric([*labels, outcome], count)
            for phase, histogram in counts.seconds.items():
                seconds.add_metric([*labels, phase], histogram.list_buckets(), histogram.total)
        errors = CounterMetricFamily(
            "attar_errors", "Error replies by cause, with or without a model.", labels=["cause"]
        )
        for cause, count in self._errors.items():
            errors.add_metric([cause], count)
        yield from (requests, rows, seconds, batches, errors)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Return the registry, made at the first scrape: the library takes long to import."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        made = CollectorRegistry()
        for collector in self.collectors:
            made.register(collector)
        ProcessCollector(registry=made)
        return made

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, Prometheus' text or OpenMetrics as
        accepted."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def name_outcome(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return GONE
    return error.cause if isinstance(error, RequestError) else EngineFailedError.cause


class ModelGauges:
    """The state of the models at the time of the scrape."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        info = GaugeMetricFamily(
            "attar_model_info",
            "1 for every model that is served.",
            labels=[*MODEL, "runtime", "precision", "gates", "attar"],
        )
        ready = GaugeMetricFamily(
            "attar_model_ready", "1 where it answers as it should.", labels=MODEL
        )
        waiting = GaugeMetricFamily(
            "attar_queue_requests", "Requests that wait for an engine.", labels=["model", "version"]
        )
        engines = GaugeMetricFamily(
            "attar_engines",
            "Open engines, by the fewest rows of the calls that are theirs.",
            labels=[*MODEL, "rows", "runtime", "precision"],
        )
        for model in self.repository.list_models():
            told, labels = describe_metadata(model)["properties"], (model.name, model.version)
            runtime = model.served.engines.manifest.engine.runtime
            info.add_metric([*labels, runtime, told["precision"], told["gates"], VERSION], 1)
            ready.add_metric(labels, model.served.ready)
        for served in {
            id(model.served): model.served for model in self.repository.list_models()
        }.values():
            named = [served.name, served.version]
            waiting.add_metric(named, served.batcher.waiting)
            opened = len({id(predict) for predict in served.engines.predicts})
            for part in served.engines.manifest.parts:
                needs = part.engine
                place = [*named, str(part.rows), needs.runtime, needs.precision]
                engines.add_metric(place, opened)
        yield from (info, ready, waiting, engines)

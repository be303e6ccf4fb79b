"""Telemetry: what happens to requests, in numbers for Prometheus.

A request costs a few additions to plain lists: the event loop alone writes them, so there is no lock. Prometheus' own library,
which locks at every addition, only writes the page.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from attar import __version__
from attar.models.task import Array
from attar.stages.serving.errors import Refused
from attar.stages.serving.http import Reply, Request
from attar.stages.serving.observer import Observer, Times
from attar.stages.serving.protocol import Infer

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from attar.stages.serving.model import Model
    from attar.stages.serving.repository import Repository

MODEL = ("model", "version")
"""The labels of everything that belongs to a model."""
SECONDS = tuple(float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2.5, 5))
ROWS = tuple(2.0**power for power in range(11))
PHASES = ("prepare", "queue", "compute", "total")
GONE = "client_gone"
"""The outcome of a request whose client did not wait for it."""


class Collector(Protocol):
    """Anything that has metrics to show."""

    def collect(self) -> Iterable[Metric]: ...


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: how many are at most each bound."""
        names = [*map(str, self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class Counts:
    """Of one version of one model."""

    __slots__ = ("batches", "outcomes", "rows", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = defaultdict(int)
        self.seconds = [Histogram(SECONDS) for _ in PHASES]
        self.batches = Histogram(ROWS)
        self.rows = 0


class Telemetry(Observer):
    """Owns the registry of its server, so that two servers in a process do not mix."""

    def __init__(self) -> None:
        self.collectors: list[Collector] = [self]
        """Whose metrics the page shows; further ones may be added until it is first asked for."""
        self._models: dict[tuple[str, str], Counts] = defaultdict(Counts)
        self._errors: dict[str, int] = defaultdict(int)

    def answered(self, model: Model, infer: Infer, outputs: Mapping[str, Array], times: Times) -> None:
        counts = self._models[model.name, model.version]
        counts.outcomes["ok"] += 1
        counts.rows += infer.rows
        prepare, queue, compute = times.prepare * 1e-9, times.queue * 1e-9, times.compute * 1e-9
        for histogram, seconds in zip(counts.seconds, (prepare, queue, compute, prepare + queue + compute), strict=True):
            histogram.add(seconds)

    def failed(self, model: Model, error: BaseException, nanoseconds: int) -> None:
        cause = GONE if isinstance(error, asyncio.CancelledError) else getattr(error, "cause", type(error).__name__)
        self._models[model.name, model.version].outcomes[cause] += 1

    def executed(self, model: Model, rows: int, nanoseconds: int) -> None:
        self._models[model.name, model.version].batches.add(rows)

    def refused(self, error: Refused) -> None:
        self._errors[error.cause] += 1

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily(
            "attar_requests", "Requests to a model, by outcome: ok, or why there was no answer.", labels=[*MODEL, "outcome"]
        )
        rows = CounterMetricFamily("attar_rows", "Samples in requests that were answered.", labels=MODEL)
        seconds = HistogramMetricFamily(
            "attar_request_seconds", "Of answered requests; compute is that of the whole batch.", labels=[*MODEL, "phase"]
        )
        batches = HistogramMetricFamily("attar_batch_rows", "Samples in a call of the engine.", labels=MODEL)
        for labels, counts in self._models.items():
            rows.add_metric(labels, counts.rows)
            batches.add_metric(labels, counts.batches.buckets(), counts.batches.total)
            for outcome, count in counts.outcomes.items():
                requests.add_metric([*labels, outcome], count)
            for phase, histogram in zip(PHASES, counts.seconds, strict=True):
                seconds.add_metric([*labels, phase], histogram.buckets(), histogram.total)
        errors = CounterMetricFamily("attar_errors", "Replies that say no, of models and all else.", labels=["cause"])
        for cause, count in self._errors.items():
            errors.add_metric([cause], count)
        yield from (requests, rows, seconds, batches, errors)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """Made when it is first looked at, as the library takes long to import."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        made = CollectorRegistry()
        for collector in self.collectors:
            made.register(collector)  # type: ignore[arg-type]  # it asks for its own base class, and calls collect alone
        ProcessCollector(registry=made)
        return made

    async def page(self, request: Request) -> Reply:
        """``GET /metrics``, in Prometheus' own text or in OpenMetrics, as the request's Accept says."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(request.headers.get(b"accept", b"").decode("latin-1"))
        return Reply([encode(self.registry)], content_type=content_type)


class Gauges:
    """What is true of the models at the moment that it is asked."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        info = GaugeMetricFamily(
            "attar_model_info", "1 for every model that is served.", labels=[*MODEL, "runtime", "precision", "gates", "attar"]
        )
        ready = GaugeMetricFamily("attar_model_ready", "1 where it answers as it should.", labels=MODEL)
        waiting = GaugeMetricFamily("attar_queue_requests", "Requests that wait for an engine.", labels=["model", "version"])
        for model in self.repository.models():
            told, labels = model.metadata()["properties"], (model.name, model.version)
            runtime = model.served.engines.manifest.engine.runtime
            info.add_metric([*labels, runtime, told["precision"], told["gates"], __version__], 1)
            ready.add_metric(labels, model.served.ready)
        for served in {id(model.served): model.served for model in self.repository.models()}.values():
            waiting.add_metric([served.name, served.version], served.batcher.waiting)
        yield from (info, ready, waiting)

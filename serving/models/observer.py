"""The interface through which statistics, metrics and the shadow follow the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attar.models.task import Array
from attar.serving.core.errors import RequestError
from attar.serving.models.engines import Engines
from attar.serving.protocol.request import InferenceRequest, RequestTiming


class ObservedModel(Protocol):
    """The part of a model that observers see."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def served(self) -> ObservedBundle: ...


class ObservedBundle(Protocol):
    """The part of a loaded bundle that observers see."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def engines(self) -> Engines: ...

    @property
    def models(self) -> Sequence[ObservedModel]: ...


class Observer:
    """Follows what models do.

    Unless a method says otherwise it is called on the event loop, in the path of the requests, so
    it returns at once and raises nothing.
    """

    def on_response(
        self,
        model: ObservedModel,
        infer: InferenceRequest,
        outputs: Mapping[str, Array],
        times: RequestTiming,
    ) -> None:
        """A request has its reply, made of all outputs of its model.

        ``outputs`` are the graph's own, as ``infer.inputs`` are.
        """

    def on_error(self, model: ObservedModel, error: BaseException, nanoseconds: int) -> None:
        """A request failed: ``error`` is RequestError, CancelledError if its client is gone, or
        unforeseen, and then the answer is that of EngineFailedError."""

    def on_batch(self, model: ObservedModel, rows: int, nanoseconds: int) -> None:
        """The engine was called once, for one or more requests."""

    def on_refusal(self, error: RequestError) -> None:
        """An error was sent. If it is about a model, ``on_error`` was called as well."""

    def on_load(self, served: ObservedBundle) -> None:
        """A bundle was opened, and is not served yet. Called in a thread; it may raise
        InvalidBundleError, and then the bundle is not served."""

    def on_retire(self, served: ObservedBundle) -> None:
        """A bundle has given its last answer, or was never served. Called in a thread."""

    def is_ready(self, served: ObservedBundle) -> bool:
        """Whether requests should be sent to it. What says no here still answers."""
        return True

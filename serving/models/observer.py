"""Observer: where statistics, metrics, logs and shadowing attach to what a model does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attar.models.task import Array
from attar.serving.core.errors import Refused
from attar.serving.models.engines import Engines
from attar.serving.protocol.request import Infer, Times


class ObservedModel(Protocol):
    """What an observer sees of a model."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def served(self) -> ObservedBundle: ...


class ObservedBundle(Protocol):
    """What an observer sees of a loaded bundle."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def engines(self) -> Engines: ...

    @property
    def models(self) -> Sequence[ObservedModel]: ...


class Observer:
    """Where nothing else is said, it is called on the event loop, in the path of the requests: it returns at once and raises
    nothing."""

    def answered(self, model: ObservedModel, infer: Infer, outputs: Mapping[str, Array], times: Times) -> None:
        """A request has its outputs, all of them. ``infer.inputs`` are the graph's own, preprocessed where it has steps."""

    def failed(self, model: ObservedModel, error: BaseException, nanoseconds: int) -> None:
        """A request has none: ``error`` is Refused, or CancelledError when its client went away."""

    def executed(self, model: ObservedModel, rows: int, nanoseconds: int) -> None:
        """The engine was called once, for one or more requests."""

    def refused(self, error: Refused) -> None:
        """A reply said no. ``failed`` was told as well where a model was meant."""

    def loaded(self, served: ObservedBundle) -> None:
        """A bundle was opened and is not served yet. In a thread; may raise InvalidBundleError, and then it never is."""

    def retired(self, served: ObservedBundle) -> None:
        """A bundle has given its last answer, or was loaded and never served. In a thread."""

    def ready(self, served: ObservedBundle) -> bool:
        """Whether requests should be sent to it. What says no here still answers."""
        return True

    def close(self) -> None:
        """The server has ended. In a thread."""

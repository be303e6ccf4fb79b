"""Observer: where statistics, metrics, logs and shadowing attach to what a model does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.models.task import Array

if TYPE_CHECKING:
    from attar.serving.errors import Refused
    from attar.serving.model import Model, Served
    from attar.serving.protocol import Infer


@dataclass(slots=True)
class Times:
    """Of one answered request, in nanoseconds."""

    prepare: int
    """Preprocessing; 0 where there is none."""
    queue: int
    """From being handed in to the start of its batch."""
    compute: int
    """Of its whole batch."""
    rows: int
    """Of its whole batch."""


class Observer:
    """Where nothing else is said, it is called on the event loop, in the path of the requests: it returns at once and raises
    nothing."""

    def answered(self, model: Model, infer: Infer, outputs: Mapping[str, Array], times: Times) -> None:
        """A request has its outputs, all of them. ``infer.inputs`` are the graph's own, preprocessed where it has steps."""

    def failed(self, model: Model, error: BaseException, nanoseconds: int) -> None:
        """A request has none: ``error`` is Refused, or CancelledError when its client went away."""

    def executed(self, model: Model, rows: int, nanoseconds: int) -> None:
        """The engine was called once, for one or more requests."""

    def refused(self, error: Refused) -> None:
        """A reply said no. ``failed`` was told as well where a model was meant."""

    def loaded(self, served: Served) -> None:
        """A bundle was opened and is not served yet. In a thread; may raise InvalidBundleError, and then it never is."""

    def retired(self, served: Served) -> None:
        """A bundle has given its last answer, or was loaded and never served. In a thread."""

    def ready(self, served: Served) -> bool:
        """Whether requests should be sent to it. What says no here still answers."""
        return True

    def close(self) -> None:
        """The server has ended. In a thread."""

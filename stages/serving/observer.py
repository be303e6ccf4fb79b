"""Observer: where statistics, metrics, logs and shadowing attach to what a model does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attar.models.task import Array

if TYPE_CHECKING:
    from attar.stages.serving.model import Model
    from attar.stages.serving.protocol import Infer


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
    """Everything is called on the event loop, in the path of the requests: it returns at once and raises nothing."""

    def answered(self, model: Model, infer: Infer, outputs: Mapping[str, Array], times: Times) -> None:
        """A request has its outputs, all of them. ``infer.inputs`` are the graph's own, preprocessed where it has steps."""

    def failed(self, model: Model, error: BaseException, nanoseconds: int) -> None:
        """A request has none: ``error`` is Refused, or CancelledError when its client went away."""

    def executed(self, model: Model, rows: int, nanoseconds: int) -> None:
        """The engine was called once, for one or more requests."""

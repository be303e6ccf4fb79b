"""A request of the Open Inference Protocol v2, as both transports know it.

https://github.com/open-inference/open-inference-protocol, and Triton's extensions for binary tensor
data and classification (``docs/protocol/extension_binary_data.md`` and
``extension_classification.md`` of its server). ``reader`` reads requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.models.task import Array
from attar.serving.core.errors import BadRequestError, format_value
from attar.serving.core.ledger import Reservation

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how long the JSON is where bytes follow it."""
STATEFUL = ("sequence_id", "sequence_start", "sequence_end")
MEANT = {"binary_data_output", "timeout", "priority", *STATEFUL}
"""Parameters for the server; others are sent back with the answer."""


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """An output of a request."""

    name: str
    binary: bool = False
    classes: int = 0
    """If not 0, so many of the largest values are sent instead of the tensor, each as
    ``value:index:label``."""


@dataclass(slots=True)
class RequestTiming:
    """The nanoseconds that one answered request took."""

    prepare: int
    """Time of preprocessing."""
    queue: int
    """Time from the submission to the start of the batch."""
    compute: int
    """The engine's call for the whole batch."""
    rows: int
    """The samples in the whole batch."""


@dataclass(slots=True)
class InferenceRequest:
    """A request that fits its model's signature."""

    inputs: dict[str, Array]
    """Arrays in the order of the signature."""
    rows: int
    wanted: Sequence[OutputRequest]
    """Outputs in the order of the request."""
    id: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reservation: Reservation | None = None
    """The memory that the request takes; None if it is not counted."""
    times: RequestTiming | None = None
    """The times of the answer."""

    @property
    def timeout(self) -> float | None:
        """Return the seconds that the client waits; None if it gives no limit, or 0."""
        asked = self.parameters.get("timeout")
        return asked / 1e6 if asked else None


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise BadRequestError for one that the protocol does not have, or that is addressed to
    the server and cannot be followed."""
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise BadRequestError(
            f"the parameter timeout is {format_value(timeout)}, expected microseconds as an "
            "integer, 0 for none"
        )
    if nested := [name for name, value in parameters.items() if isinstance(value, dict | list)]:
        raise BadRequestError(
            f"the parameter {nested[0][:80]!r} is {format_value(parameters[nested[0]])}, "
            "expected a text, number or boolean"
        )
    if any(parameters.get(name) for name in STATEFUL):
        raise BadRequestError(
            "sequences need a model that keeps state between requests; the models here keep none"
        )

"""Observations: what a stage measured while it ran, such as times. They are recorded beside its
facts, since they differ from run to run and decide nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Observations = dict[str, float]

_observations: ContextVar[Observations | None] = ContextVar("observations", default=None)


def observe(name: str, value: float) -> None:
    """Record a number beside the facts of the stage that is running."""
    observations = _observations.get()
    if observations is not None:
        observations[name] = value


@contextmanager
def collect_observations() -> Iterator[Observations]:
    """Yield what is observed inside."""
    observations: Observations = {}
    token = _observations.set(observations)
    try:
        yield observations
    finally:
        _observations.reset(token)

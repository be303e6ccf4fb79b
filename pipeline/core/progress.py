"""Progress: a stage reports how far it is, and the caller decides whether and how to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int, str], None]
"""Called with the activity, the amount done, the total, and a note such as ``loss 0.31``."""

EpochListener = Callable[[str, Mapping[str, float]], None]
"""Called with the name of a network and the entry of an epoch in its history. It may raise
StoppedError to end the training, which goes on from there when it is asked for again."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)

_epoch_listener: ContextVar[EpochListener | None] = ContextVar("epoch_listener", default=None)


def report_progress(what: str, done: int, total: int, note: str = "") -> None:
    """Call the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total, note)


@contextmanager
def listen_to_progress(listener: Listener) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_epoch(network_name: str, entry: Mapping[str, float]) -> None:
    """Call the listener of epochs, if there is one."""
    listener = _epoch_listener.get()
    if listener is not None:
        listener(network_name, entry)


@contextmanager
def listen_to_epochs(listener: EpochListener) -> Iterator[None]:
    token = _epoch_listener.set(listener)
    try:
        yield
    finally:
        _epoch_listener.reset(token)

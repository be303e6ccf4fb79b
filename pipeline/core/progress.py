"""Progress: a stage reports how far it is, and the caller decides whether and how to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int, str], None]
"""Called with the activity, the amount done, the total, and a note such as ``loss 0.31``."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


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

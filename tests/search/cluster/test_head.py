"""A head that is there, that is silent for a while, and that is gone."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from attar.search.cluster import head
from attar.search.cluster.head import ClusterLostError, HeadWatch

LOST = r"127\.0\.0\.1:\d+ answers no longer .* the same command"


def test_a_head_whose_process_has_ended_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
        watch.require()
    with pytest.raises(ClusterLostError, match=LOST):
        watch.look()


def test_a_head_that_is_silent_has_a_while_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(place: Any, timeout: float) -> socket.socket:
        raise TimeoutError("timed out")

    watch = HeadWatch("127.0.0.1:6379")
    monkeypatch.setattr(socket, "create_connection", connect)
    watch.look(silent=60.0)
    with pytest.raises(ClusterLostError, match=LOST):
        watch.require()


def test_a_call_gives_what_it_returns_and_raises_what_it_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "LOOK", 0.01)
    waiting = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
        assert watch.guard(waiting.wait, 0.1) is False  # looked at meanwhile, and it is there
        with pytest.raises(TimeoutError, match="its own"):
            watch.guard(raise_error, TimeoutError("its own"))


def test_a_call_that_waits_for_a_head_that_is_gone_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "LOOK", 0.01)
    waiting = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
    with pytest.raises(ClusterLostError, match=LOST):
        watch.guard(waiting.wait)
    waiting.set()


def raise_error(error: Exception) -> None:
    raise error

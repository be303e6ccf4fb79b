"""A head that is there, that is silent for a while, and that is gone."""

from __future__ import annotations

import socket
from typing import Any

import pytest

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

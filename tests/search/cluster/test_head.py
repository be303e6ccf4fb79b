"""A head that is there, that is silent for a while, and that is gone."""

from __future__ import annotations

import socket

import pytest

from attar.search.cluster.head import ClusterLostError, HeadWatch


def test_a_head_that_is_gone_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = HeadWatch(f"127.0.0.1:{server.getsockname()[1]}")
        watch.require()
    watch.look(silent=60.0)  # it may come back
    with pytest.raises(ClusterLostError, match=r"127\.0\.0\.1:\d+ answers no longer .* the same command"):
        watch.require()

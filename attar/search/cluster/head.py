"""The head of a cluster: whether it is there still. What it knew of its jobs ends with it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from attar.pipeline.core.errors import AttarError

T = TypeVar("T")
LOOK = 2.0
"""Seconds between two looks at the head while a call is waited for."""
SILENT = 20.0
"""Seconds without an answer after which a head is taken for gone. Ray's own processes wait for 60,
and then end."""


class ClusterLostError(AttarError):
    """The head of the cluster is gone, and all jobs are lost with it."""


class HeadWatch:
    """Looks whether a head accepts connections at ``HOST:PORT``."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address, self.place = address, (host, int(port))
        self.silent_since: float | None = None

    def guard(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what ``call`` returns, and look at the head until it does.

        Any call to Ray may ask the head, and without one it ends the process after a minute: no
        call may be waited for longer than the head is there. Raises ClusterLostError, and leaves
        the call to its thread.
        """
        future: Future[T] = Future()
        thread = threading.Thread(
            target=settle, args=(future, call, arguments), name="attar-ray", daemon=True
        )
        thread.start()
        while not wait([future], timeout=LOOK).done:
            self.look()
        return future.result()

    def look(self, silent: float = SILENT) -> None:
        """Raises ClusterLostError if its process has ended, or for ``silent`` seconds nothing came.

        One that is started again in its place knows nothing of its jobs, so the first refusal
        counts.
        """
        try:
            socket.create_connection(self.place, timeout=1.0).close()
            self.silent_since = None
        except ConnectionRefusedError as error:
            raise self.explain_loss(error) from error
        except OSError as error:
            self.silent_since = self.silent_since or time.monotonic()
            if time.monotonic() - self.silent_since >= silent:
                raise self.explain_loss(error) from error

    def require(self) -> None:
        """Raises ClusterLostError if it does not answer now."""
        self.look(silent=0.0)

    def explain_loss(self, error: OSError) -> ClusterLostError:
        return ClusterLostError(
            f"the head of the cluster at {self.address} answers no longer ({error}), and its jobs "
            "are lost with it; start a cluster again (`ray start --head`, then `ray start "
            "--address` on the other nodes) and give the same command with its address: it goes on "
            "from what is in the store"
        )


def settle(future: Future[T], call: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    """Give a future what the call returns or raises."""
    try:
        future.set_result(call(*arguments))
    except BaseException as error:  # noqa: BLE001  # who waits raises it, whatever it is
        future.set_exception(error)

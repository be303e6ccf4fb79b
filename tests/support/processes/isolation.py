"""What keeps tests apart from the user's files, from the network, and from each other's garbage."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

USER_FOLDERS = {
    "HOME": "",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "share",
    "XDG_STATE_HOME": "state",
}
"""Variables that name a user's folders, and their places in the home folder of the tests."""


@contextmanager
def empty_home(home: Path) -> Iterator[None]:
    """Give this process and its children a home folder without files, and no folder of data."""
    with pytest.MonkeyPatch.context() as patch:
        # matplotlib lists the machine's fonts once, which takes seconds; the list says nothing of the user.
        fonts = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(fonts)))
        patch.delenv("ATTAR_DATA", raising=False)
        for variable, folder in USER_FOLDERS.items():
            (home / folder).mkdir(parents=True, exist_ok=True)
            patch.setenv(variable, str(home / folder))
        yield


def is_loopback(address: Any) -> bool:
    """Whether a socket's address is on this machine: a path, ``localhost``, 127.0.0.0/8 or ::1."""
    if not isinstance(address, tuple):
        return True
    host = address[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let the sockets of this process connect to this machine alone."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def check(address: Any) -> None:
        if not is_loopback(address):
            pytest.fail(f"a test connects to {address!r}; mark it `network` if it must, or serve what it needs on 127.0.0.1")

    def checked_connect(self: socket.socket, address: Any) -> None:
        check(address)
        connect(self, address)

    def checked_connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked_connect)
        patch.setattr(socket.socket, "connect_ex", checked_connect_ex)
        yield

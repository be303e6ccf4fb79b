"""The key-value store of a team of processes, within one process."""

from __future__ import annotations

import threading


class Board:
    """A wire within one process. A get that nobody answers fails after some seconds instead of hanging the tests."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self.changed:
            self.values[key] = value.encode()
            self.changed.notify_all()

    def get(self, key: str) -> bytes:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout=20), f"nobody set {key!r}"
            return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

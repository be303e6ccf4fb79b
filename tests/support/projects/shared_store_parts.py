"""Artifacts of several machines that share a store."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from attar.pipeline.shared.store import SharedStore
from attar.pipeline.store.store import Store
from tests.support.projects.store_parts import KEY, RECORD, fail_if_waiting
from tests.support.projects.toy import Number


def open_machine(folder: Path, name: str) -> SharedStore:
    """The store of a machine is its cache; all share one folder in the place of a bucket."""
    return SharedStore(folder / name, (folder / "bucket").as_uri())


def make(store: Store, key: str = KEY, value: str = "1", files: tuple[str, ...] = ("value.json",)) -> Number:
    with store.making(key, fail_if_waiting) as payload:
        for name in files:
            (payload / name).write_text(value)
        return store.share(Number, store.commit(Number, payload, key, {"n": 1}, RECORD))


def age(folder: Path) -> None:
    """Make all files of the shared store two days old."""
    for path in (folder / "bucket").rglob("*"):
        stamp = path.stat().st_mtime - timedelta(days=2).total_seconds()
        os.utime(path, (stamp, stamp))


def find(store: Store, key: str = KEY) -> Number:
    found = store.find(Number, key)
    assert found is not None
    return found


def read(store: Store, key: str = KEY) -> float:
    store.verify(find(store, key))
    return find(store, key).value()

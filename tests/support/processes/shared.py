"""Folders that are made once in a test session, whichever of its processes needs them first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

Make = Callable[[Path], dict[str, Any]]
"""Fills an empty folder and returns facts about it, in JSON."""


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this session share."""
    base = factory.getbasetemp()
    is_worker = base.name.startswith("popen-gw")  # the folder that pytest-xdist gives to one of several processes
    return base.parent if is_worker else base


def make_once(factory: pytest.TempPathFactory, name: str, make: Make) -> tuple[Path, dict[str, Any]]:
    """Return the folder ``name`` and its facts; the first process that asks makes it, the others wait."""
    root = session_folder(factory) / "shared" / name
    root.mkdir(parents=True, exist_ok=True)
    folder, facts = root / "out", root / "facts.json"
    with FileLock(root / "lock"):
        if not facts.exists():
            folder.mkdir()
            facts.write_text(json.dumps(make(folder)), encoding="utf-8")
    return folder, json.loads(facts.read_text(encoding="utf-8"))

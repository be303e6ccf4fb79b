"""Fixtures that earlier versions wrote, unpacked; see ``tests/compat/README.md``."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import EngineEnvironment

FOLDER = Path(__file__).parents[2] / "compat"
PUBLIC_KEY = FOLDER / "signed.pub.pem"


def unpack(name: str, folder: Path) -> Path:
    """Unpack the archive ``name`` into ``folder``; return what it holds, a folder of that name."""
    with tarfile.open(FOLDER / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def describe_making_machine(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Give the machine and the runtime's version that the bundle's engine was built on for those of here."""
    engine = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["engine"]
    environment = EngineEnvironment(engine["version"], engine["machine"])
    monkeypatch.setattr(type(runtimes.load_runtime(engine["runtime"])), "describe_environment", lambda self: environment)

"""What is said of an artifact in a list of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDED = {"key", "digest", "files", "slot", "deciders", "seconds", "made"}
"""What every record has."""


@dataclass(frozen=True)
class Entry:
    """An artifact as ``ls`` and ``show`` list it, whatever its class."""

    key: str
    root: Path
    record: Mapping[str, Any]
    signer: str | None = None
    """The fingerprint of the key that the record in a shared store says has signed it."""
    distrust: str | None = None
    """Why this machine does not take it from the shared store."""

    @property
    def bytes(self) -> int:
        return sum(int(size) for size, _, _ in self.record["files"].values())

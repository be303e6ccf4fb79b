"""What is said of an artifact in a list of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Moment = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
"""In nanoseconds since 1970, or before it."""
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class Making(BaseModel):
    date: str


class Recorded(BaseModel):
    """What every record has, as far as anything relies on it."""

    key: str
    digest: Digest
    files: dict[str, tuple[Count, Moment, Digest]]
    """By path: bytes, nanoseconds of the last change, SHA-256."""
    slot: str
    deciders: dict[str, Any]
    seconds: float
    made: Making


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

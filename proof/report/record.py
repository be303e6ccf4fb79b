"""What the report reads of a run: one record for each slot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from attar.pipeline.core.stage import Artifact
from attar.proof.report import formatting

Status = Literal["made", "reused", "failed", "skipped"]
REFUSED_EXIT_CODE = 3
"""The exit code of a stage that refused, on the evidence, to make something."""


class Record(Protocol):
    """One slot of a run and what became of it. Every page is a pure function of such records."""

    @property
    def slot(self) -> str:
        """``student``, or ``TARGET.engine`` for what is made per target."""

    @property
    def target(self) -> str:
        """The target that the slot belongs to; "" for a slot that all targets share."""

    @property
    def stage(self) -> str:
        """Name of the stage's class."""

    @property
    def makes(self) -> type[Artifact]:
        """The class of artifact that the slot's stage makes."""

    @property
    def status(self) -> Status: ...

    @property
    def reason(self) -> str:
        """Why it was made, reused or skipped."""

    @property
    def key(self) -> str | None: ...

    @property
    def path(self) -> Path | None:
        """The artifact's folder, where there is one."""

    @property
    def seconds(self) -> float:
        """How long making it took, whenever that was."""

    @property
    def facts(self) -> Mapping[str, Any]: ...

    @property
    def error(self) -> str | None: ...

    @property
    def exit_code(self) -> int:
        """0, or that of the error. 3 is a bundle that its verdict refused, which is no breakage."""

    @property
    def made(self) -> Mapping[str, Any]:
        """``{"date": ISO 8601, "machine": {...}, "attar": version}``; empty if nothing was made."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """Input name to the slot that it was read from."""


def describe_status(record: Record) -> str:
    """Its status, but for a bundle that a verdict forbids: that is ``refused``, not ``failed``."""
    return (
        "refused"
        if record.status == "failed" and record.exit_code == REFUSED_EXIT_CODE
        else record.status
    )


def explain_status(record: Record) -> str:
    """Return why it has its status. An artifact that was made for the first time is ``new``."""
    if describe_status(record) == "refused":
        return formatting.typeset_minus(record.error or record.reason)
    return "new" if record.status == "made" and record.reason == "never made" else record.reason

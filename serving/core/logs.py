"""Logs: one JSON object a line, on standard error."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import orjson

MINUTE = 60.0
LINES = 100
"""In each minute, of one kind."""


def log_fields(**told: Any) -> dict[str, Any]:
    """Return ``extra`` of a line: ``log.info("answered", extra=log_fields(status=200))``."""
    return {"fields": told}


class LineLimit:
    """So many lines of a kind in a minute, so that nobody fills the log who only has to ask for
    it."""

    def __init__(self, lines: int = LINES) -> None:
        self._lines = lines
        self._kinds: dict[str, tuple[int, int]] = {}
        """By kind, the minute of its last line, and how many it wanted in it."""

    def count_line(self, kind: str) -> int | None:
        """Return how many lines were left out in the minute of the kind's last line; None where
        this one is left out, too."""
        now = int(monotonic() // MINUTE)
        minute, wanted = self._kinds.get(kind, (now, 0))
        if minute == now:
            self._kinds[kind] = now, wanted + 1
            return 0 if wanted < self._lines else None
        self._kinds[kind] = now, 1
        return max(0, wanted - self._lines)


class JsonFormatter(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger`` and ``message``, then the fields, and ``traceback``
    where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(said, default=str).decode()


def to_stderr(level: int) -> None:
    """Everything that this process logs from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)

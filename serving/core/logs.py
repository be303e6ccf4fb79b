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
"""Lines of one kind in a minute."""


def log_fields(**told: Any) -> dict[str, Any]:
    """Return ``extra`` of a line: ``log.info("answered", extra=log_fields(status=200))``."""
    return {"fields": told}


class LineLimit:
    """Limits the lines of each kind in a minute, so that no client can fill the log."""

    def __init__(self, lines: int = LINES) -> None:
        self._lines = lines
        self._kinds: dict[str, tuple[int, int]] = {}
        """For each kind, the minute of its last line, and the number of lines in it."""

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
    """Send everything that this process logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)

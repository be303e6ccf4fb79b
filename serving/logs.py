"""Logs: one JSON object a line, on standard error."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson


def fields(**told: Any) -> dict[str, Any]:
    """What a line says beside its message: ``log.info("answered", extra=fields(status=200))``."""
    return {"fields": told}


class Lines(logging.Formatter):
    """``time`` (UTC), ``level``, ``logger`` and ``message``, then the fields, and ``traceback`` where there is one."""

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
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)

"""The limit of open files: every connection takes a descriptor, and without one it is reset."""

from __future__ import annotations

import logging

from attar.pipeline.core.open_files import raise_limit
from attar.serving.core.settings import Settings

RESERVED = 32
"""Descriptors for what is no connection: listeners, the log, libraries, and the files of a bundle
while it is loaded."""
log = logging.getLogger(__name__)


def fit_connections(settings: Settings) -> Settings:
    """Raise this process' limit of open files to what the connections need, and return the
    settings, with as many connections as there is place for where the hard limit is under that."""
    transports = 1 if settings.grpc_port is None else 2
    limit = raise_limit(settings.max_connections * transports + RESERVED)
    place = max(1, (limit - RESERVED) // transports)
    if place >= settings.max_connections:
        return settings
    log.warning(
        (
            "at most %d connections are taken, not %d, as this process may have %d files open; "
            "raise that with ulimit -n"
        ),
        place,
        settings.max_connections,
        limit,
    )
    return settings.model_copy(update={"max_connections": place})

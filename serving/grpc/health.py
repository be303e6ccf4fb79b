"""Health: what ``grpc.health.v1`` tells of the server, which is called "", and of each model by its
name.

grpcio-health-checking's servicer gets a message when it is read whole, and its watchers have no
limit; here callers without a token have a limit of their own, and so have watchers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from attar.serving.core.errors import BusyError, NotFoundError
from attar.serving.models.service import InferenceService

LOOK = 0.5
"""Seconds between looks for whoever watches."""


class Health:
    def __init__(self, service: InferenceService) -> None:
        self._service, self._repository = service, service.repository

    def find_status(self, service: str) -> str:
        """Return the status of a model. Raises NotFoundError if the server does not know it."""
        try:
            ready = (
                self._repository.find_model(service).served.ready
                if service
                else self._repository.ready
            )
        except BusyError:  # known, and not loaded
            ready = False
        return "SERVING" if ready and not self._service.draining else "NOT_SERVING"

    async def watch_status(self, service: str) -> AsyncIterator[str]:
        """Yield the status now and whenever it changes, until the server ends; a model may become
        known meanwhile."""
        told = ""
        while True:
            ends = self._service.draining
            if (found := self._find_known_status(service)) != told:
                yield found
                told = found
            if ends:
                return
            await asyncio.sleep(LOOK)

    def _find_known_status(self, service: str) -> str:
        try:
            return self.find_status(service)
        except NotFoundError:
            return "SERVICE_UNKNOWN"

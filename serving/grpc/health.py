"""``grpc.health.v1``: the status of the server, which is called "", and of each model by its name.

The servicer of grpcio-health-checking gets a message when it is read whole, and does not limit its
watchers. Here callers without a token have a limit of their own, and so have watchers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from attar.serving.core.errors import BusyError, NotFoundError
from attar.serving.grpc.admission import GrpcAdmission
from attar.serving.models.service import InferenceService

LOOK_SECONDS = 0.5
"""Interval at which the status is looked at for watchers."""
WATCHERS = 8
"""One of so many calls at a time may be a Watch, which does not end by itself."""


class Health:
    def __init__(self, service: InferenceService, admission: GrpcAdmission) -> None:
        self._service, self._repository = service, service.repository
        self._admission = admission
        self._most = max(1, service.settings.max_connections // WATCHERS)
        self.watching = 0

    async def check(self, request: Any, context: Any) -> dict[str, Any]:
        """Answer Check; the names of models are known only to callers with a token."""
        if request.service:
            self._admission.check_token(context)
        return {"status": self.find_status(request.service)}

    def find_status(self, service: str) -> str:
        """Return the status of a model. Raises NotFoundError if the server does not know it."""
        try:
            if service:
                ready = self._repository.find_model(service).served.ready
            else:
                ready = self._repository.ready
        except BusyError:  # known, and not loaded
            ready = False
        return "SERVING" if ready and not self._service.draining else "NOT_SERVING"

    async def watch_status(self, service: str) -> AsyncIterator[str]:
        """Yield the status now and whenever it changes, until the server ends.

        Raises BusyError if there are too many watchers, and when the server ends.
        """
        with self._count_watcher():
            last = ""
            while True:
                is_last = self._service.draining
                if (status := self._find_known_status(service)) != last:
                    yield status
                    last = status
                if is_last:
                    raise BusyError("the server ends; ask another")
                await asyncio.sleep(LOOK_SECONDS)

    @contextmanager
    def _count_watcher(self) -> Iterator[None]:
        if self.watching >= self._most:
            raise BusyError(f"{self._most} watch already; ask with Check")
        self.watching += 1
        try:
            yield
        finally:
            self.watching -= 1

    def _find_known_status(self, service: str) -> str:
        try:
            return self.find_status(service)
        except NotFoundError:
            return "SERVICE_UNKNOWN"

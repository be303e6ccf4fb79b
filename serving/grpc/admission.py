"""Who may call over gRPC, and how much of a message is read from whom.

gRPC takes in a message as a whole, up to one limit for all methods. What is not read stays with
its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from attar.serving.core.authenticator import ASK_WITH_TOKEN, Authenticator
from attar.serving.core.errors import BusyError, TooLargeError, TooSlowError, UnauthorizedError
from attar.serving.core.ledger import MemoryLedger
from attar.serving.core.settings import Settings
from attar.serving.grpc.message_room import MessageRoom

EMPTY_REQUESTS = ("ServerLive", "ServerReady")
"""Methods whose requests are empty, so they are not read. As over HTTP, they need no token."""
CHECK = "Check"
"""A method that needs no token if it asks about the server. Its request, which says so, is read
in the same way for all callers, so calls that are slow never delay a probe."""
UNAUTHENTICATED_BYTES = 1024
"""Limit of a message from a caller without a token."""
UNAUTHENTICATED_SECONDS = 1.0
"""Time limit of such a message."""
UNAUTHENTICATED_READS = 4
"""Number of such messages that are awaited at a time, which bounds their sum. A further one ends
the oldest wait: a probe sends its message with its call, so it is read at once."""
SMALL_PART = 16
"""Such messages may take one of so many parts of the ledger together."""


class GrpcAdmission:
    def __init__(
        self, authenticator: Authenticator, settings: Settings, ledger: MemoryLedger, largest: int
    ) -> None:
        """``largest``: bytes of the longest message that gRPC takes in."""
        self._authenticator, self._settings = authenticator, settings
        self._room = MessageRoom(ledger, largest)
        self._calls = 0
        self._unauthenticated: list[asyncio.Timeout] = []
        self.most_reads = max(1, min(UNAUTHENTICATED_READS, ledger.limit // SMALL_PART // largest))

    def is_known(self, context: Any) -> bool:
        return self._authenticator.is_authorized(read_authorization(context))

    def check_token(self, context: Any) -> None:
        """Raises UnauthorizedError."""
        if not self.is_known(context):
            raise UnauthorizedError(ASK_WITH_TOKEN)

    def check_control(self, context: Any) -> None:
        """Check a call that loads or unloads a model. Raises UnauthorizedError, ForbiddenError."""
        self._authenticator.check_control(read_authorization(context))

    @contextmanager
    def count_call(self, name: str, context: Any) -> Iterator[None]:
        """Count a call while it is answered; calls that need no token are not limited.

        Raises UnauthorizedError, and BusyError if there are too many.
        """
        if name in EMPTY_REQUESTS or name == CHECK:
            yield
            return
        self.check_token(context)
        if self._calls >= self._settings.max_connections:
            raise BusyError(
                f"{self._calls} calls are under way, which are all that are taken at a time; "
                "try again later"
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def read_message(self, name: str, context: Any) -> Any:
        """Return the request of a counted call.

        Raises NoRoomError, TooSlowError and TooLargeError.
        """
        if name in EMPTY_REQUESTS:
            return b""
        if name == CHECK:
            return await self._read_unauthenticated(context)
        limit = asyncio.timeout(self._settings.slow)
        return await self._room.read(lambda: read_within(limit, context))

    async def _read_unauthenticated(self, context: Any) -> Any:
        while len(self._unauthenticated) >= self.most_reads:
            oldest = self._unauthenticated.pop(0)
            if not oldest.expired():
                oldest.reschedule(asyncio.get_running_loop().time())
        limit = asyncio.timeout(min(UNAUTHENTICATED_SECONDS, self._settings.slow))
        self._unauthenticated.append(limit)
        try:
            sent = await read_within(limit, context)
        finally:
            if limit in self._unauthenticated:
                self._unauthenticated.remove(limit)
        is_short = sent is grpc.aio.EOF or len(sent) <= UNAUTHENTICATED_BYTES
        if not is_short and not self.is_known(context):
            raise TooLargeError(
                f"without a token a message has {UNAUTHENTICATED_BYTES} bytes at most"
            )
        return sent


async def read_within(limit: asyncio.Timeout, context: Any) -> Any:
    """Return the next message. Raises TooSlowError."""
    try:
        async with limit:
            return await context.read()
    except TimeoutError:
        raise TooSlowError(
            "the request did not arrive in time; send it quicker, or in parts"
        ) from None


def read_authorization(context: Any) -> bytes:
    metadata = context.invocation_metadata()
    return ", ".join(value for name, value in metadata if name == "authorization").encode()

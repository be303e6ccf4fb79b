"""Door: who may call over gRPC, and what of a message is taken from whom.

gRPC takes up a message as a whole, up to its limit, and that limit is the same for all methods.
What is not read stays with its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from attar.serving.core.authenticator import ASK_WITH_TOKEN, Authenticator
from attar.serving.core.errors import BusyError, TooLargeError, TooSlowError, UnauthorizedError
from attar.serving.core.settings import Settings

SILENT = ("ServerLive", "ServerReady")
"""Whose requests are empty, so that they are answered unread, and without a token as over HTTP."""
CHECK = "Check"
"""Needs none either where it asks for the server; to tell that, its request must be read. It is
read alike for everybody, so that calls that wait for something else never hold up a probe."""
UNAUTHENTICATED_BYTES = 1024
"""That a message may have whose caller has no token."""
UNAUTHENTICATED_SECONDS = 1.0
"""That it may take."""
UNAUTHENTICATED_READS = 4
"""Such messages that are waited for at a time, so that their sum is bounded. One more takes the
place of the one that was waited for longest: a probe sends its message with its call, so that
callers who send none never keep it out."""


class GrpcAdmission:
    def __init__(self, authenticator: Authenticator, settings: Settings) -> None:
        self._authenticator, self._settings = authenticator, settings
        self._calls = 0
        self._unauthenticated: list[asyncio.Timeout] = []
        self.most_reads = UNAUTHENTICATED_READS
        """Such messages that are waited for at a time."""

    def is_known(self, context: Any) -> bool:
        return self._authenticator.is_authorized(read_authorization(context))

    def check_token(self, context: Any) -> None:
        """Raises UnauthorizedError."""
        if not self.is_known(context):
            raise UnauthorizedError(ASK_WITH_TOKEN)

    @contextmanager
    def count_call(self, name: str, context: Any) -> Iterator[None]:
        """A place among the calls that are taken at a time. Callers without a token take none, so
        that they keep nobody out.

        Raises UnauthorizedError, and BusyError where no place is free.
        """
        if name in SILENT or name == CHECK:
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

    def check_control(self, context: Any) -> None:
        """To load or unload a model. Raises UnauthorizedError and ForbiddenError."""
        self._authenticator.check_control(read_authorization(context))

    def may_be_long(self, name: str, context: Any) -> bool:
        """Whether its message may be long, so that it needs room; those of callers without a
        token have a limit of their own."""
        return not (name in SILENT or name == CHECK)

    async def read_message(self, name: str, context: Any) -> Any:
        """Return the request of a call that is counted. Raises TooSlowError and TooLargeError."""
        if name in SILENT:
            return b""
        if name == CHECK:
            return await self._read_unauthenticated(context)
        return await read_within(asyncio.timeout(self._settings.slow), context)

    async def _read_unauthenticated(self, context: Any) -> Any:
        while len(self._unauthenticated) >= self.most_reads:
            expire_now(self._unauthenticated.pop(0))
        limit = asyncio.timeout(min(UNAUTHENTICATED_SECONDS, self._settings.slow))
        self._unauthenticated.append(limit)
        try:
            sent = await read_within(limit, context)
        finally:
            if limit in self._unauthenticated:
                self._unauthenticated.remove(limit)
        if sent is grpc.aio.EOF or self.is_known(context):
            return sent
        if len(sent) > UNAUTHENTICATED_BYTES:
            del sent  # else the error would hold it until the call has ended
            raise TooLargeError(
                f"without a token a message has {UNAUTHENTICATED_BYTES} bytes at most"
            )
        return sent


def expire_now(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


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
    sent = [value for name, value in context.invocation_metadata() if name == "authorization"]
    return ", ".join(sent).encode()

"""Door: who may call over gRPC, and what of a message is taken from whom.

gRPC takes up a message as a whole, up to its limit, and that limit is the same for all methods.
What is not read stays with its client.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from attar.stages.serving.errors import TooLarge, TooSlow, Unauthorized
from attar.stages.serving.guard import ASK_WITH_TOKEN, Guard
from attar.stages.serving.settings import Settings

SILENT = ("ServerLive", "ServerReady")
"""Whose requests are empty, so that they are answered unread, and without a token as over HTTP."""
CHECK = "Check"
"""Needs none either where it asks for the server; to tell that, its request must be read."""
BRIEF = 1024
"""Bytes that a message may have whose caller has no token."""
MOMENT = 1.0
"""Seconds that it may take: such messages are read one at a time, so that their sum is bounded."""


class Door:
    def __init__(self, guard: Guard, settings: Settings) -> None:
        self._guard, self._settings = guard, settings
        self._strangers = asyncio.Lock()

    def knows(self, context: Any) -> bool:
        sent = [value for name, value in context.invocation_metadata() if name == "authorization"]
        return self._guard.admits(", ".join(sent).encode())

    def admit(self, context: Any) -> None:
        """Raises Unauthorized."""
        if not self.knows(context):
            raise Unauthorized(ASK_WITH_TOKEN)

    async def message(self, name: str, context: Any) -> Any:
        """The request of a method. Raises Unauthorized before anything of it is read, TooSlow and TooLarge."""
        if name in SILENT:
            return b""
        if name == CHECK and not self.knows(context):
            return await self._brief(context)
        self.admit(context)
        return await within(self._settings.slow, context)

    async def _brief(self, context: Any) -> Any:
        async with self._strangers:
            sent = await within(min(MOMENT, self._settings.slow), context)
        if sent is not grpc.aio.EOF and len(sent) > BRIEF:
            del sent  # else the error would hold it until the call has ended
            raise TooLarge(f"without a token a message has {BRIEF} bytes at most")
        return sent


async def within(seconds: float, context: Any) -> Any:
    """A message that comes in time. Raises TooSlow."""
    try:
        async with asyncio.timeout(seconds):
            return await context.read()
    except TimeoutError:
        raise TooSlow("the request did not arrive in time; send it quicker, or in parts") from None

"""Door: lets into gRPC who has a token, before anything of a message is read; as over HTTP, who asks about health needs none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from attar.stages.serving.guard import ASK_WITH_TOKEN, Guard
from attar.stages.serving.messages import SERVICE

HEALTH = {f"/{SERVICE.full_name}/{name}" for name in ("ServerLive", "ServerReady")}


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        sent = [value for name, value in details.invocation_metadata if name == "authorization"]
        if details.method in HEALTH or self._guard.admits(", ".join(sent).encode()):
            return await continuation(details)
        return grpc.stream_stream_rpc_method_handler(refuse)  # which alone is called before a message has come


async def refuse(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, ASK_WITH_TOKEN)


def opened(server: Any, address: str, guard: Guard) -> int:
    """The port that the server listens on, with TLS where there is a certificate. Raises RuntimeError for one that is taken."""
    pair = guard.key_pair()
    if pair is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, grpc.ssl_server_credentials([pair])))

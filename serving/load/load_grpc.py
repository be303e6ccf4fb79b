"""A load over gRPC: channels with one connection each, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.serving.load.client import Address
from attar.serving.load.client_grpc import (
    METHOD,
    Metadata,
    build_message,
    build_metadata,
    open_channel,
    send_message,
)
from attar.serving.load.load import PATIENCE, UNANSWERED, Load
from attar.serving.load.schedule import Schedule


@dataclass(frozen=True, eq=False)
class ClientChannel:
    channel: Any
    send: Any
    """Sends an encoded request, and returns its encoded answer."""


async def open_channels(where: Address, ca: Path | None, count: int) -> list[ClientChannel]:
    """Open ``count`` channels. Raises AttarError if one has no connection within ``PATIENCE``."""
    channels = [open_channel(grpc.aio, where, ca) for _ in range(count)]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(made.channel_ready() for made in channels))
    except TimeoutError:
        await asyncio.gather(*(made.close() for made in channels))
        raise AttarError(
            f"there is no connection to {where} within {PATIENCE:g} s; start `attar serve`, "
            "or give its --url"
        ) from None
    return [ClientChannel(made, made.unary_unary(METHOD)) for made in channels]


@contextmanager
def open_event_loop() -> Iterator[asyncio.Runner]:
    """Open the one event loop of all loads: gRPC's events may come late, to a closed loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


class GrpcLoad(Load[ClientChannel]):
    def __init__(
        self,
        runner: asyncio.Runner,
        where: Address,
        messages: Sequence[bytes],
        connections: int,
        sent: Metadata = (),
        ca: Path | None = None,
    ) -> None:
        """``messages``: encoded ModelInferRequests. Raises AttarError without a trusted server."""
        self._runner, self._metadata = runner, sent
        super().__init__(messages, runner.run(open_channels(where, ca, connections)))
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    def close(self) -> None:
        self._runner.run(self._close_channels())

    async def _close_channels(self) -> None:
        await asyncio.gather(*(connection.channel.close() for connection in self._every))

    def _send_requests(self, schedule: Schedule) -> None:
        self._runner.run(self._send_all(schedule))

    async def _send_all(self, schedule: Schedule) -> None:
        async with asyncio.TaskGroup() as group:
            while not schedule.is_over(now := time.perf_counter()):
                while self._free and (intended := schedule.take_due(now)) is not None:
                    task = group.create_task(self._send_request(self._free.popleft(), intended))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await self._wait_for_turn(schedule, now)
            await self._await_last()

    async def _send_request(self, connection: ClientChannel, intended: float) -> None:
        try:
            await connection.send(self._take_message(), metadata=self._metadata)
            self._latencies.append(time.perf_counter() - intended)
        except grpc.aio.AioRpcError as error:
            self._errors[error.code().name] += 1
        finally:
            self._free.append(connection)
            self._freed.set()

    async def _wait_for_turn(self, schedule: Schedule, now: float) -> None:
        """Wait until a connection is free or a request is due."""
        wait = self._compute_wait(schedule, now)
        if not wait:
            await asyncio.sleep(0)
            return
        self._freed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._freed.wait()

    async def _await_last(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        for task in self._tasks:
            self._errors[UNANSWERED] += 1
            task.cancel()


@dataclass(frozen=True)
class Grpc:
    """Requests to a server over gRPC."""

    runner: asyncio.Runner
    where: Address
    headers: Mapping[str, str]
    ca: Path | None
    forms = ("binary",)

    def infer(self, model: str, inputs: Arrays, form: str) -> dict[str, Array]:
        return send_message(
            self.where, build_message(model, inputs), build_metadata(self.headers), self.ca
        )

    def encode_requests(self, model: str, requests: Sequence[Arrays], form: str) -> list[bytes]:
        return [build_message(model, each) for each in requests]

    def open_load(self, messages: Sequence[bytes], connections: int) -> GrpcLoad:
        return GrpcLoad(
            self.runner, self.where, messages, connections, build_metadata(self.headers), self.ca
        )

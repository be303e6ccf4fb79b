"""Servers: who is compared, how each is started on one core, what it is asked, and how it is kept
from working out of turn."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import orjson

from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.serving.load.client import Address, PostRequest, build_request, take_turns
from attar.serving.load.load import Outcome
from attar.serving.load.load_http import HttpLoad
from benchmarks.peers.environments import (
    OURS,
    Environment,
    UnavailableError,
    last_words,
    ours,
    python,
)
from benchmarks.peers.process import HERE, environ

START = 60.0
"""Seconds that a server may need until it answers."""
ENGINE = ours("onnxruntime")


def protocol(inputs: Arrays, form: str) -> PostRequest:
    return build_request("served", inputs, form)


def litserve(inputs: Arrays, form: str) -> PostRequest:
    """One sample; LitServe has a form of its own."""
    sample = next(iter(inputs.values()))[0]
    body = orjson.dumps({"input": sample}, option=orjson.OPT_SERIALIZE_NUMPY)
    return PostRequest("/predict", {"Content-Type": "application/json"}, body)


@dataclass(frozen=True)
class Peer:
    name: str
    environment: Environment
    script: str
    forms: Sequence[str] = ("json",)
    ask: Callable[[dict[str, Array], str], PostRequest] = protocol


ATTAR = Peer("attar serve", OURS, "", ("json", "binary"))
LITSERVE = Peer(
    "LitServe",
    Environment("litserve", ("litserve==0.2.19", ENGINE)),
    "serve_litserve",
    ask=litserve,
)
MLSERVER = Peer("MLServer", Environment("mlserver", ("mlserver==1.7.1", ENGINE)), "serve_mlserver")
STARLETTE = Peer(
    "bare Starlette",
    Environment("starlette", ("starlette", "uvicorn", "uvloop", "httptools", "orjson", ENGINE)),
    "serve_starlette",
    ("json", "binary"),
)
PEERS = (ATTAR, LITSERVE, MLSERVER, STARLETTE)


@dataclass
class RunningPeer:
    """A server in a group of processes of its own, stopped except while it is measured."""

    peer: Peer
    bundle: Path
    cache: Path
    core: int
    log: Path
    ready: float = field(init=False, default=0.0)
    """Seconds from the start of the process to its first answer."""

    def __enter__(self) -> Self:
        self.port = free()
        self.where = Address("127.0.0.1", self.port)
        command = self.command()  # which installs what is missing
        with self.log.open("w") as said:
            start = time.perf_counter()
            self.process = subprocess.Popen(
                ["taskset", "-c", str(self.core), *command],
                stdout=said,
                stderr=said,
                env=environ(self.peer.environment),
                start_new_session=True,
            )
        while not self.answers():
            if self.process.poll() is not None or time.perf_counter() > start + START:
                self.__exit__()
                raise UnavailableError(last_words(self.log.read_text()) or "it does not answer")
            time.sleep(0.01)
        self.ready = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def command(self) -> list[str]:
        if self.peer is ATTAR:
            options = ["--threads", "1", "--http-port", str(self.port), "--allow-native"]
            return [sys.executable, "-m", "attar", "serve", *options, f"served={self.bundle}"]
        model = self.bundle / "engines" / "onnxruntime" / "model.onnx"
        script = HERE / f"{self.peer.script}.py"
        return [
            str(python(self.peer.environment, self.cache)),
            str(script),
            str(model),
            str(self.port),
        ]

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.where.host, self.where.port), 1):
            return True
        return False

    def load(self, requests: Arrays, form: str, batch: int, connections: int) -> HttpLoad:
        asked = [
            self.peer.ask(each, form).encode(str(self.where))
            for each in take_turns(requests, batch)
        ]
        return HttpLoad(self.where, asked, connections)

    def closed(
        self, requests: Arrays, form: str, batch: int, connections: int, seconds: float
    ) -> Outcome:
        """After a tenth of the time that does not count."""
        self.go(signal.SIGCONT)
        with self.load(requests, form, batch, connections) as made:
            made.run_closed_loop(seconds / 10)
            found = made.run_closed_loop(seconds)
        self.go(signal.SIGSTOP)
        return found

    def go(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def resident(self) -> int:
        """Bytes of all its processes."""
        return sum(memory(pid) for pid in group(self.process.pid))


def group(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


def memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


def free() -> int:
    """A port whose two neighbours are likely free too."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port: int = made.getsockname()[1]
    return port - 10


def checked(running: RunningPeer, requests: Arrays, form: str) -> None:
    """Raises UnavailableError for a server that does not answer what it is asked."""
    try:
        found = running.closed(requests, form, 1, 1, 0.2)
    except AttarError as error:
        raise UnavailableError(str(error)) from error
    if found.errors or not len(found.latencies):
        raise UnavailableError(f"{form} is answered with {dict(found.errors) or 'nothing'}")

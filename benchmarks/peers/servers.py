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
    find_last_words,
    pin_version,
    prepare_python,
)
from benchmarks.peers.process import HERE, choose_variables

START = 60.0
"""Seconds that a server may need until it answers."""
ENGINE = pin_version("onnxruntime")


def build_v2_request(inputs: Arrays, form: str) -> PostRequest:
    return build_request("served", inputs, form)


def build_litserve_request(inputs: Arrays, form: str) -> PostRequest:
    """Build a request of one sample; LitServe has a form of its own."""
    sample = next(iter(inputs.values()))[0]
    body = orjson.dumps({"input": sample}, option=orjson.OPT_SERIALIZE_NUMPY)
    return PostRequest("/predict", {"Content-Type": "application/json"}, body)


@dataclass(frozen=True)
class Peer:
    name: str
    environment: Environment
    script: str
    forms: Sequence[str] = ("json",)
    ask: Callable[[dict[str, Array], str], PostRequest] = build_v2_request


ATTAR = Peer("attar serve", OURS, "", ("json", "binary"))
LITSERVE = Peer(
    "LitServe",
    Environment("litserve", ("litserve==0.2.19", ENGINE)),
    "serve_litserve",
    ask=build_litserve_request,
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
        self.port = find_port()
        self.where = Address("127.0.0.1", self.port)
        command = self.build_command()  # which installs what is missing
        with self.log.open("w") as said:
            start = time.perf_counter()
            self.process = subprocess.Popen(
                ["taskset", "-c", str(self.core), *command],
                stdout=said,
                stderr=said,
                env=choose_variables(self.peer.environment),
                start_new_session=True,
            )
        while not self.is_listening():
            if self.process.poll() is not None or time.perf_counter() > start + START:
                self.__exit__()
                raise UnavailableError(
                    find_last_words(self.log.read_text()) or "it does not answer"
                )
            time.sleep(0.01)
        self.ready = time.perf_counter() - start
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def build_command(self) -> list[str]:
        if self.peer is ATTAR:
            port = str(self.port)
            options = ["--threads", "1", "--http-port", port, "--no-grpc", "--allow-native"]
            return [sys.executable, "-m", "attar", "serve", *options, f"served={self.bundle}"]
        model = self.bundle / "engines" / "onnxruntime" / "model.onnx"
        script = HERE / f"{self.peer.script}.py"
        return [
            str(prepare_python(self.peer.environment, self.cache)),
            str(script),
            str(model),
            str(self.port),
        ]

    def is_listening(self) -> bool:
        with suppress(OSError), socket.create_connection((self.where.host, self.where.port), 1):
            return True
        return False

    def open_load(self, requests: Arrays, form: str, batch: int, connections: int) -> HttpLoad:
        asked = [
            self.peer.ask(each, form).encode(str(self.where))
            for each in take_turns(requests, batch)
        ]
        return HttpLoad(self.where, asked, connections)

    def run_closed_loop(
        self, requests: Arrays, form: str, batch: int, connections: int, seconds: float
    ) -> Outcome:
        """Measure after a tenth of the time that does not count."""
        self.send_signal(signal.SIGCONT)
        with self.open_load(requests, form, batch, connections) as made:
            made.run_closed_loop(seconds / 10)
            found = made.run_closed_loop(seconds)
        self.send_signal(signal.SIGSTOP)
        return found

    def send_signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def sum_memory(self) -> int:
        """Return the bytes of all its processes."""
        return sum(read_process_memory(pid) for pid in list_processes(self.process.pid))


def list_processes(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getpgid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


def read_process_memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


def find_port() -> int:
    """Return a port whose two neighbours are likely free too."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        port: int = made.getsockname()[1]
    return port - 10


def check_server(running: RunningPeer, requests: Arrays, form: str) -> None:
    """Raise UnavailableError for a server that does not answer what it is asked."""
    try:
        found = running.run_closed_loop(requests, form, 1, 1, 0.2)
    except AttarError as error:
        raise UnavailableError(str(error)) from error
    if found.errors or not len(found.latencies):
        raise UnavailableError(f"{form} is answered with {dict(found.errors) or 'nothing'}")

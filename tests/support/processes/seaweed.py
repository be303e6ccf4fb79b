"""SeaweedFS, a server that speaks S3."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from attar.pipeline.core.errors import StoreError
from attar.pipeline.shared.remote_files import RemoteFiles

WEED = Path(sys.executable).with_name("weed")
SECRET = "SECRET-OF-THE-TESTS"  # noqa: S105  # of a server that a test starts
IDENTITY = {"credentials": [{"accessKey": "reader", "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
PORTS = ("master.port", "volume.port", "filer.port", "master.port.grpc", "volume.port.grpc", "filer.port.grpc", "s3.port.grpc")


def choose_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        free = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in free]


@dataclass
class SeaweedServer:
    folder: Path
    volumes: int = 0
    """How many volumes of 16 MB it may fill; 0: as many as fit on the disk."""
    port: int = field(default_factory=lambda: choose_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.folder / "identities.json"
        config.write_text(json.dumps({"identities": [{"name": "tests", **IDENTITY}]}))
        ports = dict(zip(PORTS, choose_ports(len(PORTS)), strict=True))
        given = {"dir": self.folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "volume.max": self.volumes, **ports}
        given |= {
            "master.volumeSizeLimitMB": 16,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.port": self.port,
            "s3.config": config,
        }
        command = [str(WEED), "server", "-s3", *(f"-{name}={value}" for name, value in given.items())]
        log = self.folder / "server.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        end = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        with contextlib.suppress(StoreError):
            RemoteFiles("s3://bucket").write("ready", b"1")  # which makes the bucket
            return True
        return False

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()


def set_variables(patch: pytest.MonkeyPatch, server: SeaweedServer) -> None:
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    patch.setenv("AWS_REGION", "us-east-1")
    patch.setenv("AWS_ACCESS_KEY_ID", "reader")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)

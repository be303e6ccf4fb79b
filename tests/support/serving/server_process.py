"""A server in a process of its own, whose memory and log can be read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ServerProcess:
    """A server in a process of its own, as it is run."""

    def __init__(self, process: subprocess.Popen[str], line: str, log: Path) -> None:
        found = re.fullmatch(r"ready on https?://[\d.]+:(\d+)(?: and grpcs?://[\d.]+:(\d+))?\n", line)
        assert found, line + log.read_text(encoding="utf-8")
        self.process, self.log = process, log
        self.http, self.grpc = ("127.0.0.1", int(found[1])), f"127.0.0.1:{found[2]}"

    def resident(self) -> int:
        """Kilobytes."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8"))
        assert found
        return int(found[1])

    def check(self) -> None:
        assert self.process.poll() is None
        assert "Traceback" not in self.log.read_text()


@contextmanager
def run_server(folder: Path, *arguments: str) -> Iterator[ServerProcess]:
    """Run `attar serve` until the block ends; its log is in ``folder``."""
    log = folder / "log"
    command = [sys.executable, "-m", "attar", "serve", "--http-port", "0", "--grpc-port", "0", *arguments]
    with log.open("w") as written, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True) as process:
        try:
            assert process.stdout
            yield ServerProcess(process, process.stdout.readline(), log)
        finally:
            process.terminate()
            process.wait(20)

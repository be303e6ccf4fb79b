"""The command `attar serve`, started or refused, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ATTAR_SERVE = [sys.executable, "-m", "attar", "serve"]


@contextmanager
def run_serve_command(*arguments: str, grpc: str = "--no-grpc") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and the port that it is ready on, with ``grpc`` ``--grpc-port=0`` the one for gRPC."""
    process = subprocess.Popen(
        [*ATTAR_SERVE, "--http-port", "0", grpc, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"ready on http://127\.0\.0\.1:(\d+)(?: and grpc://127\.0\.0\.1:(\d+))?\n", line)
        assert found, line + process.communicate()[1]
        yield process, int(found[1] if grpc == "--no-grpc" else found[2])
    finally:
        process.kill()
        process.communicate()


def run_refused_serve(*arguments: str) -> tuple[int, str]:
    """Run `attar serve` that ends by itself; return its exit code and its message."""
    done = subprocess.run(
        [*ATTAR_SERVE, "--http-port", "0", "--grpc-port", "0", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stdout
    return done.returncode, done.stderr

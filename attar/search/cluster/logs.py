"""Logs: the end of what a job prints, kept in the shared store while it runs. A process that is
killed tells nothing, and neither does its node."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attar.pipeline.core.errors import StoreError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.shared.remote_files import RemoteFiles

EVERY = 1.0
"""Seconds between two looks at the log."""
MOST_BYTES, MOST_LINES = 4000, 12
"""What is kept of it, and what is shown."""


class LogTail:
    """The end of what this process wrote to a file descriptor since this was made.

    Of a descriptor that is no file, such as a terminal, it is empty.
    """

    def __init__(self, files: RemoteFiles, path: str, descriptor: int = 2) -> None:
        self.files, self.path = files, path
        status = os.fstat(descriptor)
        self.file = Path(f"/proc/self/fd/{descriptor}") if stat.S_ISREG(status.st_mode) else None
        self.start, self.sent = status.st_size, b""
        self.ended = threading.Event()

    def read(self) -> bytes:
        if self.file is None:
            return b""
        with self.file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.start, size - MOST_BYTES))
            return file.read()

    def send(self) -> None:
        tail = self.read()
        if tail != self.sent:
            self.files.write(self.path, tail)
            self.sent = tail

    def follow(self) -> None:
        """Send it until this has ended, or the store fails, which the job itself will meet."""
        try:
            while not self.ended.wait(EVERY):
                self.send()
        except StoreError as error:
            write_line(f"this log is kept no longer: {error}")


@contextmanager
def keep_log(files: RemoteFiles, path: str) -> Iterator[None]:
    """Keep the end of this process's log in the store, and delete it when all went well."""
    tail = LogTail(files, path)
    thread = threading.Thread(target=tail.follow, name="attar-log", daemon=True)
    thread.start()
    try:
        with listen_to_progress(ProgressLines().show):
            yield
    finally:
        tail.ended.set()
        thread.join()
    with contextlib.suppress(StoreError):  # `attar gc` deletes what is left
        files.delete([path])


class ProgressLines:
    """Writes a line of progress at most once in ``EVERY`` seconds."""

    def __init__(self) -> None:
        self.said = 0.0

    def show(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - self.said >= EVERY:
            self.said = now
            write_line(f"{what}: {done} of {total}  {note}")


def write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def read_log_end(files: RemoteFiles, path: str) -> str:
    """Return the last lines of a job that died; empty if it left none."""
    text = (files.read(path) or b"").decode(errors="replace")
    return "\n".join(text.splitlines()[-MOST_LINES:])

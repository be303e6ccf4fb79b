"""What a step of ``make gpu`` prints, shown while it runs."""

from __future__ import annotations

import os
import subprocess
import time

NEWS_SECONDS = 5.0  # between two looks


class CommandLog:
    """What a command writes to a file, which it goes on to write while it is read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.content = descriptor, b""

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    def show_news(self) -> bool:
        """Print what is new, and return whether there was anything."""
        known = len(self.content)
        while block := os.pread(self.descriptor, 1 << 20, len(self.content)):
            self.content += block  # read elsewhere, the command would write elsewhere, too
        news = self.content[known:].decode(errors="replace")
        print(news, end="", flush=True)
        return bool(news)


def wait_for_end(started: subprocess.Popen[bytes], log: CommandLog, limit: float) -> int | None:
    """Return the exit code, None where the limit comes first.

    Every few seconds something is printed: what the command wrote, or for how long it runs.
    """
    begun = time.monotonic()
    while (passed := time.monotonic() - begun) < limit:
        try:
            return started.wait(min(NEWS_SECONDS, limit - passed))
        except subprocess.TimeoutExpired:
            if not log.show_news():
                print(f"   ... {time.monotonic() - begun:.0f} s", flush=True)
    return None

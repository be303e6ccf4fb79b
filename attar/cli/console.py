"""Console: shows a run to a person. Everything goes to standard error; results go to standard
output."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from attar.cli.plain_text import escape_controls, escape_field
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.run import Record

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

COLOURS = {"made": "green", "reused": "cyan", "failed": "red", "skipped": "yellow"}
QUIET = 15.0  # seconds between lines where nothing can be redrawn


class ProgressView:
    """Prints a line for each finished slot, and the progress of the current one below them."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self.console, self.progress = console, progress
        self.bar: TaskID | None = None
        self.what, self.said = "", time.monotonic()
        self.began = (0, self.said)

    def done(self, record: Record) -> None:
        if self.progress and self.bar is not None:
            self.progress.remove_task(self.bar)
        self.bar, self.what = None, ""
        took = f"{record.seconds:8.1f} s" if record.status == "made" else ""
        reason = "" if record.status == "reused" else record.reason
        why = (record.error or "").removeprefix(f"{record.slot}: ") or reason
        why = "new" if why == "never made" else why
        place = f" {_escape_markup(escape_controls(record.slot)):<16} {took:>10}  "
        why = _escape_markup(escape_controls(why))
        self._print(
            f"[{COLOURS[record.status]}]{record.status:<7}[/]{place}[dim]{why}[/]",
            whole=bool(record.error),
        )

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        what, note = escape_field(what), escape_field(note)
        if self.progress is None:
            self._line(what, done, total, note)
        elif self.bar is None or what != self.what:
            if self.bar is not None:
                self.progress.remove_task(self.bar)
            self.bar = self.progress.add_task(what, total=total, completed=done, note=note)
            self.what = what
        else:
            self.progress.update(self.bar, completed=done, total=total, note=note)

    def _line(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if what != self.what:
            self.what, self.began = what, (done, now)
        if now - self.said > QUIET:
            self.said = now
            left = format_remaining(done - self.began[0], total - done, now - self.began[1])
            text = f"{what}: {done} of {total}  {note}  {left}".rstrip()
            self._print(f"       {_escape_markup(text)}")

    def _print(self, line: str, *, whole: bool = False) -> None:
        """Print a line. A terminal cuts it at its edge unless it is whole; a log has no edge."""
        cut = self.console.is_terminal and not whole
        self.console.print(
            line,
            highlight=False,
            emoji=False,
            soft_wrap=not cut,
            no_wrap=cut,
            overflow="ellipsis" if cut else None,
        )


def format_remaining(done: int, left: int, seconds: float) -> str:
    """Return ``ETA 0:01:40`` by the mean time of the finished steps, or nothing before the first
    one is finished."""
    return f"ETA {timedelta(seconds=round(seconds / done * left))}" if done > 0 else ""


@contextmanager
def open_console() -> Iterator[ProgressView]:
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        view = ProgressView(console, None)
        with listen_to_progress(view.advance):
            yield view
        return
    with make_progress(console) as progress:
        view = ProgressView(console, progress)
        with listen_to_progress(view.advance):
            yield view


def make_progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    note = TextColumn("{task.fields[note]}", style="dim", markup=False)
    return Progress(*columns, note, console=console, transient=True)


def _escape_markup(text: str) -> str:
    """Square brackets are markup to rich; here they are text."""
    return text.replace("[", r"\[")

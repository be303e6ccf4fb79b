"""What a log shows while a recipe runs where no line can be redrawn."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from attar.cli.console import ProgressView, format_remaining, make_progress
from attar.pipeline.run import Record


def test_what_is_left_by_hand() -> None:
    assert format_remaining(10, 40, 25.0) == "ETA 0:01:40"  # 2.5 s a step, 40 steps
    assert format_remaining(0, 40, 25.0) == ""


def test_a_line_says_how_far_it_is_and_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption the first step seen is not the first of all: only those that were seen are timed."""
    clock = iter([0.0, 100.0, 116.0])
    monkeypatch.setattr("attar.cli.console.time", SimpleNamespace(monotonic=lambda: next(clock)))
    written = io.StringIO()
    view = ProgressView(Console(file=written, width=200), None)
    view.advance("student", 50, 100, "loss 0.5")
    view.advance("student", 55, 100, "loss [0.4]")
    assert written.getvalue().splitlines() == [
        "       student: 50 of 100  loss 0.5",
        "       student: 55 of 100  loss [0.4]  ETA 0:02:24",
    ]


def test_the_name_of_a_class_becomes_no_picture() -> None:
    """Between colons, as in a reason to run a slot, rich would show the one that ``Label`` or ``key`` stands for."""
    written, reason = io.StringIO(), "code.stages.label:Label: 11 -> 22"
    record = Record("answers", "Label", "made", reason)
    ProgressView(Console(file=written, width=200), None).done(record)
    assert reason in written.getvalue()


def test_progress_is_text_and_no_markup() -> None:
    written = io.StringIO()
    console = Console(file=written, width=200, force_terminal=True, color_system=None)
    with make_progress(console) as progress:
        view = ProgressView(console, progress)
        view.advance("a:Label:", 1, 2, "loss [red]\x1b[2J")
    assert "a:Label:" in written.getvalue()
    assert r"loss [red]\x1b[2J" in written.getvalue()

"""Calls in a process of their own: what comes back, and what becomes of those that crash, hang or fail."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from attar.engines.runtimes import child
from attar.pipeline.core.errors import StageError, UnsupportedModelError
from tests.support.engines import child_calls


def test_answers_are_what_the_function_returns_whatever_is_printed() -> None:
    assert child.call_in_child(child_calls.doubled, {"numbers": [1, 2.5]}, "doubling", 30) == [2, 5.0]


def test_an_error_that_attar_names_is_raised_as_what_it_is() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^not this$"):
        child.call_in_child(child_calls.refusing, {"what": "this"}, "asking", 30)


def test_a_crash_is_an_error_with_the_signal_and_what_was_said_last() -> None:
    with pytest.raises(StageError, match=r"^reading nothing crashed .*\(SIGSEGV\); the last it said: two \| three \| four$"):
        child.call_in_child(child_calls.segfaulting, {}, "reading nothing", 30)
    with pytest.raises(StageError, match=r"\(SIGABRT\)$"):
        child.call_in_child(child_calls.aborting, {}, "giving up", 30)


def test_an_error_that_attar_does_not_name() -> None:
    with pytest.raises(StageError, match=r"exit code 1\).*ZeroDivisionError"):
        child.call_in_child(child_calls.failing, {"numbers": [1]}, "dividing", 30)


def test_a_library_that_ends_the_process_as_if_all_were_well() -> None:
    with pytest.raises(StageError, match=r"goodbye$"):
        child.call_in_child(child_calls.leaving, {}, "leaving", 30)


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    called = (
        "import sys; from attar.engines.runtimes import child; from tests.support.engines import child_calls; "
        "child.call_in_child(child_calls.telling, {'file': sys.argv[1]}, 'waiting', 100)"
    )
    command = [sys.executable, "-c", called, str(tmp_path / "pid")]
    parent = subprocess.Popen(command, cwd=Path(__file__).parents[3])
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    process = Path("/proc") / (tmp_path / "pid").read_text()
    assert process.exists()
    parent.kill()
    parent.wait()
    while process.exists() and "(zombie)" not in (process / "status").read_text():
        time.sleep(0.05)


def test_what_takes_too_long_is_stopped() -> None:
    before = time.monotonic()
    with pytest.raises(StageError, match=r"waiting .* 2 s "):
        child.call_in_child(child_calls.hanging, {}, "waiting", 2)
    assert time.monotonic() - before < 20
    assert child.format_last_lines(b"one\n\n two \nthree\nfour\n") == "; the last it said: two | three | four"
    assert child.format_last_lines(None) == ""

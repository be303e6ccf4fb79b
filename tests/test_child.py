"""Calls in a process of their own: what comes back, and what becomes of those that crash, hang or fail."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from attar.pipeline.errors import Refusal, StageError
from attar.stages.runtimes import child


def doubled(request: Mapping[str, Any]) -> Any:
    print("what a library says to anybody")  # noqa: T201  # as a vendor's library does
    os.system("echo and below Python")  # noqa: S605  # to the descriptor, as C does
    return [2 * number for number in request["numbers"]]


def refusing(request: Mapping[str, Any]) -> Any:
    raise Refusal(f"not {request['what']}")


def segfaulting(request: Mapping[str, Any]) -> Any:
    os.write(2, b"one\ntwo\nthree\nfour\n")
    return ctypes.string_at(0)


def aborting(request: Mapping[str, Any]) -> Any:
    os.kill(os.getpid(), signal.SIGABRT)


def failing(request: Mapping[str, Any]) -> Any:
    return request["numbers"][0] / 0


def hanging(request: Mapping[str, Any]) -> Any:
    os.write(2, b"still busy\n")
    time.sleep(60)


def test_answers_are_what_the_function_returns_whatever_is_printed() -> None:
    assert child.ask(doubled, {"numbers": [1, 2.5]}, "doubling", 30) == [2, 5.0]


def test_an_error_that_attar_names_is_raised_as_what_it_is() -> None:
    with pytest.raises(Refusal, match=r"^not this$"):
        child.ask(refusing, {"what": "this"}, "asking", 30)


def test_a_crash_is_an_error_with_the_signal_and_what_was_said_last() -> None:
    with pytest.raises(StageError, match=r"^reading nothing crashed .*\(SIGSEGV\); the last it said: two \| three \| four$"):
        child.ask(segfaulting, {}, "reading nothing", 30)
    with pytest.raises(StageError, match=r"^giving up crashed .*\(SIGABRT\)$"):
        child.ask(aborting, {}, "giving up", 30)


def test_an_error_that_attar_does_not_name() -> None:
    with pytest.raises(StageError, match=r"^dividing failed \(exit code 1\); the last it said: .*ZeroDivisionError"):
        child.ask(failing, {"numbers": [1]}, "dividing", 30)


def test_what_takes_too_long_is_stopped() -> None:
    before = time.monotonic()
    with pytest.raises(StageError, match=r"^waiting took longer than 3 s and was stopped; the last it said: still busy$"):
        child.ask(hanging, {}, "waiting", 3)
    assert time.monotonic() - before < 20

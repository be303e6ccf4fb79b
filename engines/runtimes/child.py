"""Calls that may crash, in a process of their own, where a crash is only an error message.

The parent writes one JSON object to the child's standard input, ``{"function": "MODULE:NAME",
"request": {...}}``, and reads one from its standard output, ``{"answer": ...}`` or ``{"error":
[CLASS, MESSAGE]}``. What a library prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from attar.pipeline.core import errors, names
from attar.pipeline.core.errors import AttarError, StageError
from attar.pipeline.core.import_path import make_child_environment

DEATH = 1  # PR_SET_PDEATHSIG: the signal that a process gets when its parent dies
TAIL = 3  # lines of what a child said last


def call_in_child(
    function: Callable[[Any], Any], request: Mapping[str, Any], doing: str, seconds: float
) -> Any:
    """Return what a module's function returns for a request, in its own process; both are JSON.

    ``doing`` says what for, as in "building model.engine". An AttarError of the child is raised
    here again. Raises StageError if the child crashes (names the signal), fails, or takes longer
    than ``seconds``.
    """
    given = json.dumps(
        {"function": f"{function.__module__}:{function.__name__}", "request": request}
    )
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(
            command,
            input=given,
            env=make_child_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"{doing} took longer than {seconds:g} s and was "
            f"stopped{format_last_lines(error.stderr)}"
        ) from error
    if done.returncode != 0:
        raise StageError(
            f"{doing} {describe_exit(done.returncode)}{format_last_lines(done.stderr)}"
        )
    try:
        said = json.loads(done.stdout)
    except ValueError as error:  # a library ended the process as if all were well
        raise StageError(
            f"{doing} ended without an answer{format_last_lines(done.stderr)}"
        ) from error
    return unpack_response(said)


def unpack_response(said: Mapping[str, Any]) -> Any:
    """Return the answer of a child, or raise its error."""
    if "error" in said:
        kind, message = said["error"]
        raise getattr(errors, kind)(message)
    return said["answer"]


def describe_exit(code: int) -> str:
    """Return how a process ended, by its return code, which is negative for a signal."""
    if code < 0:
        return f"crashed the process that did it ({signal.Signals(-code).name})"
    return f"failed (exit code {code})"


def format_last_lines(said: str | bytes | None) -> str:
    text = said.decode(errors="replace") if isinstance(said, bytes) else said or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-TAIL:]
    return f"; the last it said: {' | '.join(lines)}" if lines else ""


def run_child() -> None:
    """Answer one request, in the child.

    Python reports an error that is not attar's: its trace is the last that the child writes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH, signal.SIGKILL)  # nobody would read what it says
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.load(sys.stdin)
    try:
        said = {"answer": names.load_object(asked["function"])(asked["request"])}
    except AttarError as error:
        said = {"error": [type(error).__name__, str(error)]}
    json.dump(said, out)
    out.close()
    os._exit(0)  # without the clean-up of the vendor's libraries, which may crash when all is done


if __name__ == "__main__":
    run_child()

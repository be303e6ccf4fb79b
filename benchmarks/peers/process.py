"""Processes: a build whose time and memory are taken, and a worker that is asked over pipes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.environments import (
    OURS,
    Environment,
    UnavailableError,
    find_last_words,
    list_variables,
    prepare_python,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def choose_variables(environment: Environment) -> dict[str, str]:
    return list_variables(str(ROOT) if environment is OURS else None)


@dataclass(frozen=True)
class ProcessCost:
    """Of a whole process, from its start to its end, imports included."""

    seconds: float
    """Wall time."""
    cpu: float
    """Seconds of CPU time, of its children too."""
    memory: int
    """Bytes: the most that it, or one of its children, had in memory."""


def run_build(
    environment: Environment, cache: Path, script: str, arguments: Sequence[str], log: Path
) -> ProcessCost:
    """Run ``peers/SCRIPT.py`` there. Raises UnavailableError with its last words when it fails."""
    note, made = log.with_suffix(".memory"), [str(HERE / f"{script}.py"), *arguments]
    command = [str(prepare_python(environment, cache)), str(HERE / "measured.py"), str(note), *made]
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env=choose_variables(environment)
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UnavailableError(
            find_last_words(log.read_text(encoding="utf-8"))
            or f"{script} ended with {process.returncode}"
        )
    return ProcessCost(
        time.perf_counter() - started, used.ru_utime + used.ru_stime, int(note.read_text())
    )


class Worker:
    """A model in a process of its own: see ``worker``. Raises UnavailableError, from any method,
    when the process has died."""

    def __init__(
        self, environment: Environment, cache: Path, kind: str, file: Path, cpu: int, log: Path
    ) -> None:
        command = [
            str(prepare_python(environment, cache)),
            str(HERE / "worker.py"),
            kind,
            str(file),
            str(cpu),
        ]
        self.log = log
        with log.open("w", encoding="utf-8") as said:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=choose_variables(environment),
            )
        self.read_reply()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request, default=str) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self.explain_death() from error
        return self.read_reply()

    def read_reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self.explain_death()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def explain_death(self) -> UnavailableError:
        self.process.communicate()  # which closes the pipes
        return UnavailableError(
            find_last_words(self.log.read_text())
            or f"its process ended with {self.process.returncode}"
        )

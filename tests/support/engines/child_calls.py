"""What a child is asked to do: to answer, to refuse, to crash, to fail, to take too long."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import UnsupportedModelError


def doubled(request: Mapping[str, Any]) -> Any:
    print("what a library says to anybody")  # noqa: T201  # as a vendor's library does
    os.system("echo and below Python")  # noqa: S605  # to the descriptor, as C does
    return [2 * number for number in request["numbers"]]


def refusing(request: Mapping[str, Any]) -> Any:
    raise UnsupportedModelError(f"not {request['what']}")


def segfaulting(request: Mapping[str, Any]) -> Any:
    os.write(2, b"one\ntwo\nthree\nfour\n")
    return ctypes.string_at(0)


def aborting(request: Mapping[str, Any]) -> Any:
    os.kill(os.getpid(), signal.SIGABRT)


def failing(request: Mapping[str, Any]) -> Any:
    return request["numbers"][0] / 0


def leaving(request: Mapping[str, Any]) -> Any:
    os.write(2, b"goodbye\n")
    os._exit(0)


def telling(request: Mapping[str, Any]) -> Any:
    half = Path(request["file"] + ".half")
    half.write_text(str(os.getpid()), encoding="utf-8")
    half.rename(request["file"])
    time.sleep(60)


def hanging(request: Mapping[str, Any]) -> Any:
    os.write(2, b"still busy\n")
    time.sleep(60)

"""The header of a TensorRT engine's file: its version, and the GPUs that it is for.

The header of TensorRT-RTX is not documented; it is as engines of 1.4.0, 1.6.1 and 1.7.1 for every
compute capability have it. TensorRT's own file is known by its first bytes alone; the rest is left
to its library, in a process of its own (see ``child``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import StageError

RTX = struct.Struct("<4s4xQQ4B4sQ")
"""Magic, format, bytes of the file, four parts of the version, magic again, and a bit for every
compute capability."""
MAGIC = {"tensorrt": b"ftrt", "tensorrt_rtx": b"vtrt"}
COMPUTE = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Of the first bits in engines of 1.7; the next one stands for what is newer than all of them."""
AGAIN = "build it again here"


@dataclass(frozen=True)
class EngineHeader:
    """What an engine's file says of itself; None where it does not."""

    version: str | None = None
    compute: tuple[str, ...] | None = None
    newer: bool = False
    """Whether it is for GPUs that are newer than all known ones, too."""

    def runs_on(self, compute: str) -> bool:
        if self.compute is None or compute in self.compute:
            return True
        return self.newer and parse_compute(compute) > parse_compute(COMPUTE[-1])


def parse_compute(compute: str) -> tuple[int, ...]:
    return tuple(map(int, compute.split(".")))


def read_header(module: str, file: Path) -> EngineHeader:
    """Raises StageError for a file that is not there, is no engine, or is not all of one."""
    if not file.is_file():
        raise StageError(f"there is no engine {file}")
    with file.open("rb") as opened:
        start = opened.read(RTX.size)
    if start[:4] != MAGIC[module]:
        raise StageError(
            f"{file} is no engine of {module}: it begins with {start[:4]!r}, not "
            f"{MAGIC[module]!r}; {AGAIN}"
        )
    return read_rtx_header(file, start) if module == "tensorrt_rtx" else EngineHeader()


def read_rtx_header(file: Path, start: bytes) -> EngineHeader:
    if len(start) < RTX.size:
        raise StageError(f"{file} ends in its header; it was cut off: {AGAIN}")
    _, layout, size, *version, again, bits = RTX.unpack(start)
    if layout != 2 or again != MAGIC["tensorrt_rtx"]:
        raise StageError(
            f"{file} is an engine in a form that is not known here ({layout}); {AGAIN}"
        )
    if (found := file.stat().st_size) != size:
        raise StageError(
            f"{file} has {found} bytes and should have {size}: it was cut off or added to; {AGAIN}"
        )
    named = ".".join(map(str, version))
    if version[:2] != [1, 7]:  # the bits have moved between releases
        return EngineHeader(named)
    compute = tuple(each for number, each in enumerate(COMPUTE) if bits >> number & 1)
    return EngineHeader(named, compute, bool(bits >> len(COMPUTE)))


def check_engine(module: str, file: Path, version: str) -> EngineHeader:
    """What needs no GPU. Raises StageError for a file that is no engine, or of another release than
    ``version``."""
    found = read_header(module, file)
    if found.version is not None and parse_release(found.version) != parse_release(version):
        raise StageError(
            f"{file} was built by {module} {found.version}, here is {version}; install that, or "
            f"{AGAIN}"
        )
    return found


def parse_release(version: str) -> list[str]:
    """Return the release, which alone runs an engine, without the number of the build."""
    return version.split(".")[:3]


def check_device(file: Path, found: EngineHeader, device: Mapping[str, Any]) -> None:
    """Raises StageError for a GPU that the engine was not built for."""
    if not found.runs_on(device["compute"]):
        built = ", ".join(found.compute or ())
        raise StageError(
            f"{file} was built for compute capability {built}; {device['name']} has "
            f"{device['compute']}: "
            f"add that to `compute` and build again, or take a GPU that it is for"
        )

"""TensorRT and TensorRT-RTX: engines for NVIDIA's GPUs. The two share all but the library's name and a few calls.

Not run here: no machine with a GPU has run them yet. TensorRT-RTX builds real engines without one; TensorRT does not.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from attar.engines.runtimes import child, cuda, tensorrt_build, tensorrt_engine
from attar.engines.runtimes.runtime import Asked, Environment, Refused, Runtime, missing
from attar.engines.runtimes.tensorrt_engine import COMPUTE, Header
from attar.models.task import Predictor, Task
from attar.pipeline.core.errors import StageError, UnsupportedModelError

SECONDS = 3600  # to build an engine; TensorRT tries its kernels one by one
PARSING = 300
OWN_CHOICE = Header(compute=COMPUTE[1:], newer=True)
"""What TensorRT-RTX 1.7 builds for when it is not told."""


class TensorRt(Runtime):
    """Of version 10.12 or later: built on the GPU that it is for."""

    title = "TensorRT"
    suffix = ".engine"
    knows = frozenset({"profile", "builder_optimization_level", "workspace", "hardware_compatibility", "version_compatible"})
    precisions = frozenset({"fp32", "fp16", "int8"})
    tolerances = {"fp16": 1e-2, "int8": 5e-2}  # as OpenVINO's: nothing was measured yet
    module: ClassVar[str] = "tensorrt"
    library: ClassVar[str] = "tensorrt"
    """As it is installed, and the name of attar's extra."""
    oldest: ClassVar[tuple[int, int]] = (10, 12)

    def native_content(self, asked: Asked) -> str | None:
        hosted = ", and brings code for the CPU" if asked.options.get("version_compatible") else ""
        return f"a plan holds kernels for the GPU{hosted}"

    def environment(self) -> Environment:
        """Raises StageError for a version that is too old."""
        device = {"name": "none", "compute": "none"} if cuda.absent() else cuda.devices()[0]
        return Environment(self.version(), {"gpu": device["name"], "compute": device["compute"]})

    def version(self) -> str:
        try:
            found = importlib.metadata.version(self.library)
        except importlib.metadata.PackageNotFoundError as error:
            raise missing(self.title, self.library) from error
        if tuple(map(int, found.split(".")[:2])) < self.oldest:
            raise StageError(f"{self.title} {found} is too old; install {'.'.join(map(str, self.oldest))} or later")
        return found

    def supports(self, source: Path, task: Task, asked: Asked) -> Sequence[Refused]:
        self.version()
        doing = f"reading {source.name} with {self.title}"
        found = child.ask(tensorrt_build.refused, {"module": self.module, "source": str(source)}, doing, PARSING)
        return [Refused(*each) for each in found]

    def build(self, source: Path, target: Path, task: Task, asked: Asked) -> None:
        """Raises UnsupportedModelError for what the runtime cannot build, StageError when it
        crashes; either leaves nothing behind."""
        self.version()
        half = target.with_name(f".{target.name}.half")
        request = {"module": self.module, "source": str(source), "target": str(half)}
        wanted = {"profile": dict(asked.profile), "options": dict(asked.options)}
        try:
            child.ask(tensorrt_build.built, {**request, **wanted}, f"building {target.name} with {self.title}", SECONDS)
            tensorrt_engine.header(self.module, half)
            half.replace(target)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self.title} refuses {source.name}: {error}") from error
        finally:
            half.unlink(missing_ok=True)

    @contextmanager
    def opened(self, files: Mapping[str, Path], asked: Asked) -> Iterator[Predictor]:
        """Every engine is checked, and loaded in a process of its own, before this one touches it."""
        version = self.version()
        headers = {file: tensorrt_engine.check(self.module, file, version) for file in files.values()}
        if why := cuda.absent():
            raise StageError(f"engines of {self.title} cannot run here: {why}")
        hosted = bool(asked.options.get("version_compatible"))
        for file, found in headers.items():
            tensorrt_engine.check_device(file, found, cuda.devices()[0])
            tensorrt_engine.probe(self.module, self.title, file, hosted)
        with tensorrt_engine.sessions(self.module, files, hosted) as predictor:
            yield predictor

    def unbuildable(self, asked: Asked) -> str | None:
        return cuda.absent()

    def unrunnable(self, asked: Asked) -> str | None:
        return cuda.absent()


class TensorRtRtx(TensorRt):
    """Built anywhere, ahead of time, for several compute capabilities in one engine; kernels are compiled when it is loaded."""

    title = "TensorRT-RTX"
    knows = frozenset({"profile", "compute", "workspace"})
    module = "tensorrt_rtx"
    library = "tensorrt-rtx"
    oldest = (1, 7)

    def environment(self) -> Environment:
        """An engine is for what its header says, on whatever machine it was built."""
        return Environment(self.version(), {})

    def unbuildable(self, asked: Asked) -> str | None:
        return None

    def unrunnable(self, asked: Asked) -> str | None:
        return super().unrunnable(asked) or self.unsuited(asked.options.get("compute", ()), cuda.devices()[0])

    @staticmethod
    def unsuited(compute: Sequence[str], device: Mapping[str, Any]) -> str | None:
        """Why the GPU cannot run an engine for these compute capabilities, or TensorRT-RTX's own choice; None where it can."""
        built = Header(compute=tuple(compute)) if compute else OWN_CHOICE
        if built.runs(device["compute"]):
            return None
        return f"{device['name']} has compute capability {device['compute']}, the engine is for {', '.join(built.compute or ())}"

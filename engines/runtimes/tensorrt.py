"""TensorRT and TensorRT-RTX: engines for NVIDIA's GPUs. The two share all but the library's name
and a few calls.

Not run here: no machine with a GPU has run them yet. TensorRT-RTX builds real engines without one;
TensorRT does not.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from attar.engines.runtimes import child, cuda, tensorrt_build, tensorrt_engine, tensorrt_header
from attar.engines.runtimes.runtime import (
    BuildSpec,
    EngineEnvironment,
    RefusedNode,
    Runtime,
    make_missing_error,
)
from attar.engines.runtimes.tensorrt_context import SessionOptions
from attar.engines.runtimes.tensorrt_header import COMPUTE, EngineHeader
from attar.models.task import Predictor
from attar.pipeline.core.errors import StageError, UnsupportedModelError

SECONDS = 3600  # to build an engine; TensorRT tries its kernels one by one
PARSING = 300
OWN_CHOICE = EngineHeader(compute=COMPUTE[1:], newer=True)
"""What TensorRT-RTX 1.7 builds for when it is not told."""


class TensorRt(Runtime):
    """Of version 10.12 or later: built on the GPU that it is for."""

    title = "TensorRT"
    suffix = ".engine"
    knows = frozenset(
        {
            "profile",
            "builder_optimization_level",
            "workspace",
            "hardware_compatibility",
            "version_compatible",
            "cuda_graphs",
        }
    )
    precisions = frozenset({"fp32", "fp16", "int8"})
    tolerances = {"fp16": 1e-2, "int8": 5e-2}  # as OpenVINO's: nothing was measured yet
    module: ClassVar[str] = "tensorrt"
    library: ClassVar[str] = "tensorrt"
    """As it is installed, and the name of attar's extra."""
    oldest: ClassVar[tuple[int, int]] = (10, 12)

    def native_content(self, asked: BuildSpec) -> str | None:
        hosted = ", and brings code for the CPU" if asked.options.get("version_compatible") else ""
        return f"a plan holds kernels for the GPU{hosted}"

    def describe_environment(self) -> EngineEnvironment:
        """Raises StageError for a version that is too old."""
        device = (
            {"name": "none", "compute": "none"}
            if cuda.explain_missing_gpu()
            else cuda.list_devices()[0]
        )
        return EngineEnvironment(
            self.get_version(), {"gpu": device["name"], "compute": device["compute"]}
        )

    def get_version(self) -> str:
        """Return the version, whichever CUDA its package is for: NVIDIA has one for each."""
        for package in (self.library, f"{self.library}-cu13", f"{self.library}-cu12"):
            with suppress(importlib.metadata.PackageNotFoundError):
                found = importlib.metadata.version(package)
                break
        else:
            raise make_missing_error(self.title, self.library)
        if tuple(map(int, found.split(".")[:2])) < self.oldest:
            raise StageError(
                f"{self.title} {found} is too old; install {'.'.join(map(str, self.oldest))} or "
                "later"
            )
        return found

    def find_refused_nodes(self, source: Path, asked: BuildSpec) -> Sequence[RefusedNode]:
        self.get_version()
        doing = f"reading {source.name} with {self.title}"
        found = child.call_in_child(
            tensorrt_build.list_refused_nodes,
            {"module": self.module, "source": str(source)},
            doing,
            PARSING,
        )
        return [RefusedNode(*each) for each in found]

    def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
        """Raises UnsupportedModelError for what the runtime cannot build, StageError when it
        crashes; either leaves nothing behind."""
        self.get_version()
        cuda.release_torch_memory()
        half = target.with_name(f".{target.name}.half")
        request = {"module": self.module, "source": str(source), "target": str(half)}
        wanted = {"profile": dict(asked.profile), "options": dict(asked.options)}
        try:
            child.call_in_child(
                tensorrt_build.build_engine,
                {**request, **wanted},
                f"building {target.name} with {self.title}",
                SECONDS,
            )
            tensorrt_header.read_header(self.module, half)
            half.replace(target)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{self.title} refuses {source.name}: {error}") from error
        finally:
            half.unlink(missing_ok=True)

    @contextmanager
    def open(self, files: Mapping[str, Path], asked: BuildSpec) -> Iterator[Predictor]:
        """Open engines that were checked, and loaded once in a process of their own."""
        version = self.get_version()
        headers = {
            file: tensorrt_header.check_engine(self.module, file, version)
            for file in files.values()
        }
        if why := cuda.explain_missing_gpu():
            raise StageError(f"engines of {self.title} cannot run here: {why}")
        cuda.check_tf32_override()
        cuda.release_torch_memory()
        options = SessionOptions(
            hosted=bool(asked.options.get("version_compatible")),
            cuda_graphs=bool(asked.options.get("cuda_graphs")),
            runtime_cache=bool(asked.options.get("runtime_cache")),
        )
        for file, found in headers.items():
            tensorrt_header.check_device(file, found, cuda.list_devices()[0])
            tensorrt_engine.probe_engine(self.module, self.title, file, options.hosted)
        with tensorrt_engine.open_engines(self.module, files, options) as predictor:
            yield predictor

    def find_device(self, provider: str | None) -> str:
        return "cuda"

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return cuda.explain_missing_gpu()

    def explain_unrunnable(self, asked: BuildSpec) -> str | None:
        return cuda.explain_missing_gpu()


class TensorRtRtx(TensorRt):
    """Built anywhere, ahead of time, for several compute capabilities in one engine; kernels are
    compiled when it is loaded."""

    title = "TensorRT-RTX"
    knows = frozenset({"profile", "compute", "workspace", "cuda_graphs", "runtime_cache"})
    module = "tensorrt_rtx"
    library = "tensorrt-rtx"
    oldest = (1, 7)

    def describe_environment(self) -> EngineEnvironment:
        """An engine is for what its header says, on whatever machine it was built."""
        return EngineEnvironment(self.get_version(), {})

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return None

    def explain_unrunnable(self, asked: BuildSpec) -> str | None:
        return super().explain_unrunnable(asked) or self.explain_unsuited(
            asked.options.get("compute", ()), cuda.list_devices()[0]
        )

    @staticmethod
    def explain_unsuited(compute: Sequence[str], device: Mapping[str, Any]) -> str | None:
        """Why the GPU cannot run an engine for these compute capabilities, or TensorRT-RTX's own
        choice; None where it can."""
        built = EngineHeader(compute=tuple(compute)) if compute else OWN_CHOICE
        if built.runs_on(device["compute"]):
            return None
        capabilities = ", ".join(built.compute or ())
        return (
            f"{device['name']} has compute capability {device['compute']}, "
            f"the engine is for {capabilities}"
        )

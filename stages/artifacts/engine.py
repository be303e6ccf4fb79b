"""A model as a runtime built it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Device, Facts
from attar.stages.artifacts.model import Opened
from attar.stages.artifacts.onnx_model import OnnxModel

if TYPE_CHECKING:
    from attar.engines.runtimes.runtime import BuildSpec


def read_build_spec(facts: Facts) -> BuildSpec:
    """Return the settings that the facts of an engine name."""
    from attar.engines.runtimes.runtime import BuildSpec

    names = ("precision", "threads", "provider")
    precision, threads, provider = (facts[name] for name in names)
    sizes, options = facts["asked"]["profile"], facts["asked"]["options"]
    profile = {axis: tuple(numbers) for axis, numbers in sizes.items()}
    return BuildSpec(precision, threads, provider, profile, options)


class Engine(OnnxModel):
    """A model built for one runtime on one machine, one file a graph.

    Facts: ``task``, ``runtime``, ``opened_by`` (its code), ``runtime_version``, ``provider`` (of a
    runtime that has several), ``threads``, ``precision``, ``graphs``, ``files`` (their names, by
    graph), ``parameters``, ``machine`` (what the engine depends on), ``nodes`` (a count by
    operator, if the file names them), ``difference`` (to the model), ``asked`` (``profile``,
    ``options``) and ``why``: None, or why it was not run here. If it was not built, ``files`` is
    empty and the facts that building determines are missing.
    """

    code: ClassVar[tuple[str, ...]] = ("opened_by",)

    @property
    def why_not_run(self) -> str | None:
        """What this machine lacks to run it; None if it was run."""
        reason: str | None = self.facts["why"]
        return reason

    @property
    def spec(self) -> BuildSpec:
        """The settings that it was built with."""
        return read_build_spec(self.facts)

    @property
    def size(self) -> int:
        built = self.facts["files"].keys() & self.answering_graphs
        return sum(self.file(graph).stat().st_size for graph in built)

    def file(self, graph: str = "model") -> Path:
        """Return the file of a graph. Raises StageError if it was not built."""
        if not self.facts["files"]:
            raise StageError(f"there is no engine: it was not built here: {self.why_not_run}")
        return self.root / str(self.facts["files"][graph])

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        """Open the engine on the device that it is for. Raises StageError if it cannot run here."""
        from attar.engines.runtimes.runtime import load_runtime

        runtime, spec = load_runtime(self.facts["runtime"]), self.spec
        files = {graph: self.file(graph) for graph in self.facts["graphs"]}
        if reason := runtime.explain_unrunnable(spec):
            raise StageError(f"the engine cannot run here: {reason}")
        return runtime.open(files, replace(spec, threads=threads or spec.threads))

    def find_device(self, device: Device) -> str:
        """Return the device that it was built for."""
        from attar.engines.runtimes.runtime import load_runtime

        return load_runtime(self.facts["runtime"]).find_device(self.facts["provider"])

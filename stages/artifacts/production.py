"""The model that is in production."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from filecmp import cmp
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from attar.bundle.steps import locate_steps
from attar.models.preprocess import describe_steps
from attar.models.preprocess.known import STEPS, Steps
from attar.models.task import Task
from attar.pipeline.core.errors import MissingDependencyError, StageError
from attar.stages.artifacts.engine import Engine, read_build_spec
from attar.stages.artifacts.onnx_model import OnnxModel


class Production(OnnxModel):
    """The graphs of the bundle that is in production.

    Facts: ``name``, ``task``, ``graphs``, ``precision``, ``placement``, ``preprocess``,
    ``parameters``, and of its engine ``runtime``, ``opened_by``, ``provider``, ``threads`` and
    ``asked`` as ``Engine`` has them, and what this machine ``lacks`` for it (None: nothing), so
    that what is measured without it is measured again with it; only ``{"off": true}`` if no bundle
    is compared with.
    """

    code: ClassVar[tuple[str, ...]] = ("opened_by",)

    @contextmanager
    def build_engine(self) -> Iterator[OnnxModel]:
        """Yield its engine, which is built here of its graphs as it was where it is from; itself
        where that cannot be built and run here. Raises StageError where the runtime fails."""
        if self.is_disabled or self.find_absence():
            yield self
            return
        with TemporaryDirectory(prefix="attar-production-") as folder:
            try:
                files = self.build_graphs(Path(folder))
            except StageError as error:
                raise StageError(
                    f"the engine of the bundle in production, {self.facts['name']!r}, cannot be "
                    f"built here: {error}; leave out --against"
                ) from error
            facts = {**self.facts, "files": files, "why": None}
            yield ProductionEngine(self.key, self.digest, Path(folder), facts, self)

    def build_graphs(self, out: Path) -> dict[str, str]:
        """Build the engine of every graph, and return the names of their files by graph."""
        from attar.engines.runtimes.runtime import load_runtime

        runtime, spec = load_runtime(self.facts["runtime"]), read_build_spec(self.facts)
        files = {graph: f"{graph}{runtime.suffix}" for graph in self.facts["graphs"]}
        for graph, name in files.items():
            runtime.build(self.file(graph), out / name, spec)
        return files

    def find_absence(self) -> str | None:
        """Return why its engine cannot be built and run here, or None.

        The sizes that the task promises may have grown beyond those that it was built for.
        """
        from attar.engines.axis_profile import complete_profile
        from attar.engines.runtimes.runtime import load_runtime

        runtime, spec = load_runtime(self.facts["runtime"]), read_build_spec(self.facts)
        try:
            runtime.describe_environment()
            runtime.check_available(spec)
            if spec.profile:
                complete_profile(spec.profile, self.load_task())
        except (MissingDependencyError, StageError) as error:
            return str(error)
        return runtime.explain_unbuildable(spec) or runtime.explain_unrunnable(spec)

    @property
    def preprocess(self) -> Steps:
        """The bundle's steps. The task's steps may have changed."""
        return locate_steps(STEPS.validate_python(self.facts["preprocess"]), self.root)

    def load_task(self) -> Task:
        """Return the task with the bundle's steps."""
        task = type(super().load_task())
        loaded: Task = type(task.__name__, (task,), {"preprocess": self.preprocess})()
        return loaded

    def is_same_model(self, model: OnnxModel, task: Task) -> bool:
        """Whether it has the same graphs as ``model``, and prepares inputs as the task does."""
        if describe_steps(self.preprocess) != describe_steps(task.preprocess):
            return False
        own, other = (sorted(m.root.glob("*.onnx*")) for m in (self, model))
        if [file.name for file in own] != [file.name for file in other]:
            return False
        return all(cmp(*pair, shallow=False) for pair in zip(own, other, strict=True))


@dataclass(frozen=True)
class ProductionEngine(Engine):
    """The engine of the bundle that is in production, as long as a run measures it."""

    production: Production

    def load_task(self) -> Task:
        return self.production.load_task()

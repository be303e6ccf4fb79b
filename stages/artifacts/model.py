"""What every artifact that answers has: it is opened, and so measured, in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

from attar.models.task import Predictor, Task, load_task
from attar.pipeline.core.stage import Artifact, Device, Facts

Opened = AbstractContextManager[Predictor]
MODEL_SUFFIXES = (".safetensors", ".onnx", ".data")


class Model(Artifact, ABC):
    """A network that answers: ``with model.open() as predict: predict(inputs)``.

    Inputs and outputs are arrays by name.
    """

    marker: ClassVar[str] = ""
    """The fact that every model of this class has, and no model of another class."""

    @classmethod
    def create(cls, key: str, digest: str, root: Path, facts: Facts) -> Self:
        """Return the model. `Model` itself, the class of a teacher, chooses the class by the facts.

        No class is named here, so what reads weights does not depend on the code of graphs.
        """
        kinds = Model.__subclasses__() if cls is Model else [cls]
        kind: Any = next(kind for kind in kinds if kind is cls or kind.marker in facts)
        model: Self = kind(key, digest, root, facts)
        return model

    @abstractmethod
    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        """Open the model. ``threads``: intra-op threads, by default one for each usable core."""

    @abstractmethod
    def find_device(self, device: Device) -> str:
        """Return where ``open`` runs it: ``cpu`` or ``cuda``. Raises StageError if it cannot."""

    def load_task(self) -> Task:
        """Return the task that prepares this model's inputs. A teacher may have its own."""
        return self.adapt_task(load_task(self.facts["task"]))

    def adapt_task(self, task: Task) -> Task:
        """Return a task with the inputs that this model reads: of a network its own."""
        return task

    @property
    def is_disabled(self) -> bool:
        """Whether the recipe turned this model off, so that it has no files."""
        return bool(self.facts.get("off", False))

    @property
    def size(self) -> int:
        """Number of bytes of the files that answering needs."""
        files = [path for path in self.root.rglob("*") if path.suffix in MODEL_SUFFIXES]
        return sum(file.stat().st_size for file in files)

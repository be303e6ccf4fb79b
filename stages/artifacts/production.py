"""The model that is in production."""

from __future__ import annotations

from filecmp import cmp

from attar.bundle.steps import locate_steps
from attar.models.preprocess import describe_steps
from attar.models.preprocess.known import STEPS, Steps
from attar.models.task import Task
from attar.stages.artifacts.onnx_model import OnnxModel


class Production(OnnxModel):
    """The graphs of the bundle that is in production.

    Facts: ``name``, ``task``, ``graphs``, ``precision``, ``preprocess``, ``parameters``; only
    ``{"off": true}`` if no bundle is compared with.
    """

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

"""The teacher that only translates: a function from texts to texts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

from attar.models.generation import MODEL
from attar.models.task import Predictor, Task, load_task
from attar.models.text_function import load_text_function, make_text_task
from attar.pipeline.core.stage import Device
from attar.stages.artifacts.model import Model, Opened


class TextProgram(Model):
    """A function of texts that a recipe names: rules, or what asks a service or another program.

    It has no files, and its task reads raw texts. Facts: ``task``, ``function``, ``score`` (on
    validation), ``device``, and an empty ``history``.
    """

    marker: ClassVar[str] = "function"
    code: ClassVar[tuple[str, ...]] = ("function", "task")

    def adapt_task(self, task: Task) -> Task:
        return make_text_task(task)

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        function = load_text_function(self.facts["function"], load_task(self.facts["task"]))
        return nullcontext(Predictor({MODEL: function}))

    def find_device(self, device: Device) -> str:
        return "cpu"

    @property
    def why_opaque(self) -> str:
        """Why it has no graph, and nothing is measured of its probabilities."""
        return f"{self.facts['function']} only translates"

"""Untrained: a student as it is before its training, to time what its weights do not decide."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from attar.pipeline.core.stage import Facts, Stage
from attar.stages.artifacts import Weights
from attar.stages.distill.stage import Distill
from attar.stages.learning.settings import TrainingSettings


class Untrained(TrainingSettings, Stage[Weights]):
    """The network of a student with its first weights."""

    @classmethod
    def create_from(cls, student: Distill) -> Untrained:
        return cls.model_validate({name: getattr(student, name) for name in cls.model_fields})

    def deciding(self) -> Set[str]:
        return {"task", "network", "options", "seed"}

    def run(self, out: Path) -> Facts:
        """Raises StageError for a network that cannot be built, or does not fit the task."""
        import torch

        from attar.engines.runtimes.torch import build_network, check_network
        from attar.models.task import load_task
        from attar.stages.learning.loop import save_network

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_network(self.network, self.options)
        check_network(network, load_task(self.task))
        return save_network(out, network, self, {"history": [], "precision": "fp32"})

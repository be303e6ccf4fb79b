"""Teach: the teacher, trained here or adopted from a file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from attar.pipeline.stage import DataFile, Facts
from attar.stages.learn import Learn


class Teach(Learn):
    """Trains ``network`` on the labels, or adopts ``weights`` and only measures them."""

    weights: DataFile | None = None
    """A safetensors file of the network's ``state_dict``; nothing is trained then."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """The share of the target that all classes get alike (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""

    def run(self, out: Path) -> Facts:
        from attar.stages.distillation.loop import Fresh, adopt, fit
        from attar.stages.distillation.objective import Labels

        if self.weights is not None:
            return adopt(self, self.weights, out)
        return fit(self, out, "teacher", Labels(self.label_smoothing), Fresh(self.seed))

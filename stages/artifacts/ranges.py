"""What calibration saw."""

from __future__ import annotations

import json

from attar.pipeline.core.stage import Artifact


class Ranges(Artifact):
    """The values of every tensor of a graph on the calibration's samples.

    ``ranges.json`` has the smallest and the largest value, ``{"name": [low, high]}``, and
    ``histograms.safetensors`` all values (see ``engines.calibration.histogram``). Facts:
    ``samples`` and ``tensors``, the counts of both.
    """

    def compute_ranges(
        self, method: str = "minmax", percent: float = 99.99
    ) -> dict[str, tuple[float, float]]:
        """Return the range to represent in every tensor, by a range method.

        ``minmax``, ``percentile`` (at least ``percent`` of the values), ``entropy`` or ``mse``.
        Raises StageError for another one.
        """
        from attar.engines.calibration import ranges

        if method == "minmax":
            text = (self.root / "ranges.json").read_text(encoding="utf-8")
            return {name: (low, high) for name, (low, high) in json.loads(text).items()}
        return ranges.compute_ranges(self.root / "histograms.safetensors", method, percent)

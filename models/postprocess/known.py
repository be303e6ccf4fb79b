"""Known: the closed set of steps on outputs, as a bundle's manifest holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from attar.models.postprocess.text import Detokenize
from attar.models.preprocess.step import Step

KnownOutputStep = Detokenize
"""Further steps make it a union, discriminated by ``step``."""
OutputSteps = dict[str, list[KnownOutputStep]]
OUTPUT_STEPS = TypeAdapter(OutputSteps)
"""Pydantic writes them to JSON and reads them back, and refuses any other."""


def validate_output_steps(steps: Mapping[str, Sequence[Step]]) -> OutputSteps:
    """Return the same steps, typed as those that a bundle may store. Raises ValidationError for any
    other."""
    return OUTPUT_STEPS.validate_python(steps)

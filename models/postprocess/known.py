"""Known: the closed set of steps on outputs, as a bundle's manifest holds them."""

from __future__ import annotations

from pydantic import TypeAdapter

from attar.models.postprocess.text import Detokenize

KnownOutputStep = Detokenize
"""Further steps make it a union, discriminated by ``step``."""
OutputSteps = dict[str, list[KnownOutputStep]]
OUTPUT_STEPS = TypeAdapter(OutputSteps)
"""Pydantic writes them to JSON and reads them back, and refuses any other."""

"""Known: the closed set of steps, as a bundle's manifest holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter

from attar.models.preprocess.numbers import Normalize, Scale
from attar.models.preprocess.step import Step
from attar.models.preprocess.text import Tokenize

KnownStep = Annotated[Scale | Normalize | Tokenize, Field(discriminator="step")]
"""Pydantic writes it to JSON and reads it back, and refuses any other."""
STEPS = TypeAdapter(dict[str, list[KnownStep]])


def known(steps: Mapping[str, Sequence[Step]]) -> dict[str, list[KnownStep]]:
    """The same steps, each of a kind that a bundle may hold. Raises ValidationError for any other."""
    return STEPS.validate_python(steps)

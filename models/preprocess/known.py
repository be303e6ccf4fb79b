"""The closed set of steps, as a bundle's manifest stores them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, TypeAdapter

from attar.models.preprocess.images import CenterCrop, ChannelsFirst, DecodeImage, Resize
from attar.models.preprocess.numbers import Normalize, Scale
from attar.models.preprocess.step import Step
from attar.models.preprocess.text import Tokenize

KnownStep = Annotated[
    DecodeImage | Resize | CenterCrop | ChannelsFirst | Scale | Normalize | Tokenize,
    Field(discriminator="step"),
]
"""Pydantic writes these steps to JSON, reads them back, and refuses any other."""
Steps = dict[str, list[KnownStep]]
STEPS = TypeAdapter(Steps)


def validate_steps(steps: Mapping[str, Sequence[Step]]) -> Steps:
    """Return the same steps, typed as those that a bundle may store. Raises ValidationError for any
    other."""
    return STEPS.validate_python(steps)

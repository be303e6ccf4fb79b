"""Preprocessing as data: a closed set of steps, executed by this one package for training and for
serving.

Nothing here stands at module level but imports: whoever names one step depends on the code and the
libraries of that step alone.
"""

from __future__ import annotations

from attar.models.preprocess.images import CenterCrop, ChannelsFirst, DecodeImage, Resize
from attar.models.preprocess.numbers import Normalize, Scale
from attar.models.preprocess.step import (
    FileStep,
    Step,
    apply,
    decode,
    describe_steps,
    list_later_steps,
    split_steps,
)
from attar.models.preprocess.text import Tokenize

__all__ = [
    "CenterCrop",
    "ChannelsFirst",
    "DecodeImage",
    "FileStep",
    "Normalize",
    "Resize",
    "Scale",
    "Step",
    "Tokenize",
    "apply",
    "decode",
    "describe_steps",
    "list_later_steps",
    "split_steps",
]

"""Postprocessing as data: a closed set of steps that turn a network's outputs into answers."""

from __future__ import annotations

from attar.models.postprocess.text import Detokenize

__all__ = ["Detokenize"]

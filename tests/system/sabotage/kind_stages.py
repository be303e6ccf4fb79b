"""Saboteurs of the recipe of several labels a sample and a class at each pixel: they measure by another task."""

from __future__ import annotations

from pydantic import field_validator

from attar.stages.measure.stage import Measure


class LateMarks(Measure):
    """Measures on a test split whose labels stand one row late."""

    @field_validator("task")
    @classmethod
    def _other(cls, task: str) -> str:
        return "marked.py:LateMarked"


class RolledMarks(Measure):
    """Measures on a test split whose columns of labels stand in another order."""

    @field_validator("task")
    @classmethod
    def _other(cls, task: str) -> str:
        return "marked.py:OtherColumns"


class ScoredMarks(Measure):
    """Measures by a score that reads what is ignored."""

    @field_validator("task")
    @classmethod
    def _other(cls, task: str) -> str:
        return "marked.py:Scored"

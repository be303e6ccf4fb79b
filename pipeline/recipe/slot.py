"""Slot: one place in the graph of a recipe, as the table of slots lists it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.pipeline.core.stage import Stage

Table = dict[str, Any]
"""A section of a recipe: its settings by name."""


@dataclass(frozen=True)
class Slot:
    """A place in the graph: its stage, and where an input comes from when that is not the slot of
    the same name."""

    name: str
    stage: type[Stage[Any]]
    wires: Mapping[str, str] = field(default_factory=dict)
    like: tuple[str, ...] = ()
    """Sections whose settings it takes too, where it has such a field and its own section does not
    say otherwise."""
    per_target: bool = False
    own_task: bool = False
    """Whether its section may name a task of its own, and with it those whose sections are ``like``
    it."""
    candidate: bool = False
    """Whether each candidate of a target has one of its own."""
    choosing: bool = False
    """Whether only targets with candidates have it: it stands behind theirs, and may have the name
    of one of them."""
    offers: Callable[[], Sequence[Table]] | None = None
    """What ``candidates = "all"`` stands for."""

    def sources(self, role: str) -> dict[str, str]:
        """Return the slot that each input of this role comes from, by the input's name."""
        specs = self.stage.inputs()
        return {
            name: self.wires.get(name, name) for name, spec in specs.items() if spec.role == role
        }

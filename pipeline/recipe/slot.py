"""Slot: one place in the graph of a recipe, as the table of slots lists it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.pipeline.core.stage import Stage

Table = dict[str, Any]
"""A section of a recipe: its settings by name."""
Scope = Literal["recipe", "target", "candidate", "choice"]
"""Who has a slot: all targets together, each target, each candidate of a target, or only a target
with candidates. A slot of a ``choice`` stands behind its candidates and may have their slot's
name."""


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
    scope: Scope = "recipe"
    own_task: bool = False
    """Whether its section may name a task of its own, and with it those whose sections are ``like``
    it."""
    step: str | None = None
    """The command that makes it: ``attar STEP RECIPE``. None if only later slots ask for it."""
    offers: Callable[[], Sequence[Table]] | None = None
    """What ``candidates = "all"`` stands for."""

    @property
    def per_target(self) -> bool:
        """Whether every target has one of its own."""
        return self.scope != "recipe"

    def sources(self, role: str) -> dict[str, str]:
        """Return the slot that each input of this role comes from, by the input's name."""
        specs = self.stage.inputs()
        return {
            name: self.wires.get(name, name) for name, spec in specs.items() if spec.role == role
        }

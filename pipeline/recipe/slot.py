"""Slot: one place in the graph of a recipe, a row in the table of slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.pipeline.core.stage import Stage

Table = dict[str, Any]
"""A section of a recipe: its settings by name."""
Scope = Literal["recipe", "target", "candidate", "choice"]
"""Who has a slot: all targets together, each target, each candidate of a target, or only a target
with candidates. A slot of a ``choice`` follows its candidates and may have their slot's name."""
PIN = "keep"
"""The key in a section that pins the slot's artifact. It hides a stage's field of that name."""


@dataclass(frozen=True)
class Slot:
    """A place in the graph: its stage, and the source of each input that is not the slot of the
    input's name."""

    name: str
    stage: type[Stage[Any]]
    wires: Mapping[str, str] = field(default_factory=dict)
    like: tuple[str, ...] = ()
    """Sections whose settings are its defaults, for fields that it has."""
    unlike: tuple[str, ...] = ()
    """Settings that it does not take from them: they mean another thing here."""
    scope: Scope = "recipe"
    own_task: bool = False
    """Whether its section may name its own task, which also holds for sections that are ``like``
    it."""
    step: str | None = None
    """The command that makes it: ``attar STEP RECIPE``. None if only later slots ask for it."""
    paired: bool = False
    """Whether the engine for batches has one of its own, where a target is to be fast at two batch
    sizes. Wires name the two as ``single.NAME`` and ``batch.NAME``."""
    offers: Callable[[], Sequence[Table]] | None = None
    """Returns what ``candidates = "all"`` stands for."""

    def __post_init__(self) -> None:
        if PIN in self.stage.model_fields:
            raise TypeError(
                f"slot {self.name!r}: no section can set {self.stage.__name__}.{PIN}, as {PIN} = "
                "... pins the slot's artifact; give the field another name"
            )

    @property
    def per_target(self) -> bool:
        """Whether every target has its own."""
        return self.scope != "recipe"

    def sources(self, role: str) -> dict[str, str]:
        """Return the slot that each input of this role comes from, by the input's name."""
        specs = self.stage.inputs()
        return {
            name: self.wires.get(name, name) for name, spec in specs.items() if spec.role == role
        }

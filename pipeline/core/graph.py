"""The graph of a run: stages in slots, and the slots that feed them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from attar.pipeline.core.errors import RecipeError, UnfitSettingsError, suggest_name
from attar.pipeline.core.stage import Artifact, Stage


@dataclass(frozen=True)
class SlotBinding:
    """A stage in its slot, with the slots that feed its inputs, and the key of an artifact that is
    pinned there.

    ``pinned`` has the key of each optional input, or its beginning.
    """

    stage: Stage[Any]
    inputs: Mapping[str, str]
    keep: str | None = None
    pinned: Mapping[str, str] = field(default_factory=dict)

    def wanted(self) -> dict[str, type[Artifact]]:
        """Return the artifact class of each input: those that ``run`` names, and any number of one
        class if it takes them. Optional ones only where a slot feeds them."""
        specs = self.stage.inputs()
        wanted = {
            name: spec.kind
            for name, spec in specs.items()
            if spec.role == "required" or (spec.role == "optional" and name in self.inputs)
        }
        repeated = [spec.kind for spec in specs.values() if spec.role == "repeated"]
        return wanted | {
            name: kind for kind in repeated for name in self.inputs if name not in wanted
        }

    def check_settings(self, slot: str) -> None:
        """Raises UnfitSettingsError, which names the slot, if its stage can never do what it is set
        to. What is pinned there is not made, so its settings are not asked."""
        if self.keep:
            return
        try:
            self.stage.check_settings()
        except UnfitSettingsError as error:
            raise UnfitSettingsError(f"{slot}: {error}") from error


def is_candidate(slot: str) -> bool:
    """Whether a slot belongs to one of several candidates: ``TARGET.CANDIDATE.SLOT``.

    If it is refused (see ``UnsupportedModelError``), nothing breaks, and what reads it is refused
    too.
    """
    return slot.count(".") > 1


class Pipeline:
    """Slots in the order of the run. An input names an earlier slot, so there is no cycle. Raises
    RecipeError."""

    def __init__(self, slots: Mapping[str, SlotBinding]) -> None:
        kinds: dict[str, type[Artifact]] = {}
        for slot, bound in slots.items():
            for name, wanted in bound.wanted().items():
                source = bound.inputs[name]
                if source not in kinds:
                    raise RecipeError(
                        f"{slot} needs {name} from slot {source!r}, which no earlier slot is; "
                        f"{suggest_name(source, kinds)}"
                    )
                if not issubclass(kinds[source], wanted):
                    raise RecipeError(
                        f"{slot} needs {name} to be {wanted.__name__}; {source} makes "
                        f"{kinds[source].__name__}"
                    )
            kinds[slot] = type(bound.stage).makes()
        self.slots = dict(slots)

    def up_to(self, wanted: Set[str]) -> list[str]:
        """Return these slots and all that they need, in order."""
        needed = set(wanted)
        for slot in reversed(self.slots):
            if slot in needed:
                needed |= set(self.slots[slot].inputs.values())
        return [slot for slot in self.slots if slot in needed]

    def makes(self, stage: str) -> type[Artifact] | None:
        """Return the artifact class that a stage of this name makes, or None if no slot has one."""
        kinds = (type(bound.stage) for bound in self.slots.values())
        return next((kind.makes() for kind in kinds if kind.__qualname__ == stage), None)

    def dooms(self, slot: str, walked: list[str]) -> bool:
        """Whether none of the last slots of a walk can be made without this one."""
        read = {name for other in walked for name in self.slots[other].inputs.values()}
        return all(slot in self.up_to({end}) for end in walked if end not in read)

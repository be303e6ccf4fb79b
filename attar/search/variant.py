"""Variants: the recipe with one value for each dimension of its search space."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tomlkit

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.graph import SlotBinding
from attar.pipeline.recipe.recipe import read_recipe
from attar.pipeline.recipe.search_space import SECTION, SearchSpace
from attar.pipeline.store.store import Store
from attar.proof.verdicts.limits import GateLimits
from attar.recipes.workspace import Workspace, find_recipe, open_workspace
from attar.search.unfit import explain_unfit
from attar.stages.distill.stage import Distill
from attar.stages.judge import Judge
from attar.stages.measure.bench import choose_timed_batch
from attar.stages.measure.stage import Measure
from attar.stages.slots import SLOTS

QUALITY = ("score", "score_drop", "correlation", "agreement", "kdl", "cosine")
"""Promises about the answers. Without one, the smallest network would win whatever it answers."""
STAGES = ("student", "onnx", "calibration")
"""Sections that are the settings of one stage."""
SEARCHED = (*STAGES, "targets")
"""Sections whose settings may be dimensions: what comes after the stored answers."""
OF_STUDENT, EPOCHS = "student.", "student.epochs"
TRIAL_SECONDS = 1.0
"""The longest timing of one trial; `TimeEngines` has timed it beside all others already."""


@dataclass(frozen=True)
class Variant:
    number: int
    settings: Mapping[str, Any]
    """Values by the full names of their settings."""

    @property
    def name(self) -> str:
        return f"v{self.number}"

    @property
    def title(self) -> str:
        """Return, say, ``width 8, precision int8``."""
        return ", ".join(
            f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items()
        )

    @property
    def student(self) -> str:
        """What decides its training: variants with the same of it share one student."""
        return self._select(of_student=True)

    @property
    def conversion(self) -> str:
        """What becomes of its student: the settings of its export, calibration and target."""
        return self._select(of_student=False)

    def _select(self, *, of_student: bool) -> str:
        own = {
            key: value
            for key, value in self.settings.items()
            if key.startswith(OF_STUDENT) is of_student
        }
        return json.dumps(own, sort_keys=True)

    def get_epochs(self, usual: int) -> int:
        """Return the epochs of its whole training; ``usual`` are the recipe's."""
        return int(self.settings.get(EPOCHS, usual))

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={format_inline(value)}" for key, value in self.settings.items()]


@dataclass(frozen=True)
class RecipeSearch:
    """A recipe that has a search space, and what the command says of it."""

    recipe: str
    store: Store
    space: SearchSpace
    target: str
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    name: str | None = None
    """Under which the store remembers the recipe; by its path if None."""

    @classmethod
    def create(
        cls,
        recipe: str,
        store: Store,
        overrides: Sequence[str] = (),
        targets: Sequence[str] = (),
        device: str = "auto",
    ) -> RecipeSearch:
        """Raises RecipeError for a recipe that cannot be searched, before anything runs."""
        workspace = open_workspace(recipe, SLOTS, store, overrides, targets, device)
        space = workspace.recipe.search
        if space is None:
            raise RecipeError(
                f"{workspace.recipe.path.name} has no section [{SECTION}]; name there what may "
                'change, such as "student.options.width" = [8, 12, 16]'
            )
        found = workspace.recipe.targets
        if len(found) != 1:
            listed = ", ".join(found) or "none"
            raise RecipeError(f"a search has one target, and here are {listed}; use --target NAME")
        search = cls(recipe, store, space, found[0], tuple(overrides), device)
        search.check_promises()
        search.check_dimensions()
        search.check_values()
        return search

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        assignments = enumerate(self.space.list_assignments(), 1)
        return tuple(Variant(number, settings) for number, settings in assignments)

    @cached_property
    def ruled_out(self) -> Mapping[str, str]:
        """Why a variant can never be made, by its name: its task or its network rules it out.

        Raises RecipeError for values that cannot go together.
        """
        found = {
            variant.name: explain_unfit(self.open_trial(variant).recipe.pipeline.slots)
            for variant in self.variants
        }
        return {name: reason for name, reason in found.items() if reason}

    @cached_property
    def limits(self) -> GateLimits:
        verdict = self.open([]).recipe.pipeline.slots[f"{self.target}.verdict"].stage
        if not isinstance(verdict, Judge):
            raise TypeError(f"the verdict of {self.target} is no Judge")
        return verdict.gates

    @cached_property
    def measure(self) -> Measure:
        """What measures the winner on the test split."""
        stage = self.open([]).recipe.pipeline.slots[f"{self.target}.evidence"].stage
        if not isinstance(stage, Measure):
            raise TypeError(f"the evidence of {self.target} is made by no Measure")
        return stage

    @property
    def speed_batch(self) -> int:
        """The batch size at which variants are compared."""
        return choose_timed_batch(self.measure.optimize_for, self.measure.batch)

    @property
    def student(self) -> Distill:
        return get_student(self.open([]).recipe.pipeline.slots)

    def open(self, overrides: Sequence[str]) -> Workspace:
        """Return the recipe with further settings."""
        given = [*self.overrides, *overrides]
        targets, device, name = [self.target], self.device, self.name
        return open_workspace(self.recipe, SLOTS, self.store, given, targets, device, name=name)

    def open_trial(self, variant: Variant) -> Workspace:
        """Return a variant as a recipe whose target chooses among candidates, which are measured
        on validation. A target that lists none is its only candidate.

        Raises RecipeError for values that cannot go together.
        """
        section = f"targets.{self.target}"
        tables = read_recipe(find_recipe(self.recipe), [*self.overrides, *variant.overrides])
        extra = [f"{section}.seconds={TRIAL_SECONDS}"]
        if "candidates" not in tables["targets"][self.target]:
            extra.append(f"{section}.candidates=[{{}}]")
        try:
            return self.open([*variant.overrides, *extra])
        except RecipeError as error:
            raise self.explain_contradiction(variant, error) from error

    def has_own_values(self, variant: Variant) -> bool:
        """Whether a variant has the values that the recipe or the stage gives to its dimensions;
        where both leave it to the network, every value will do."""
        given = {name: self.own_values.get(name, value) for name, value in variant.settings.items()}
        return bool(self.own_values) and given == variant.settings

    @cached_property
    def own_values(self) -> Mapping[str, Any]:
        """What the recipe or the stage gives to the dimensions, as far as they do."""
        slots = self.open([]).recipe.pipeline.slots
        stages = {name: slots[name].stage.model_dump() for name in STAGES if name in slots}
        given: dict[str, Any] = {}
        for tables in (stages, read_recipe(find_recipe(self.recipe), self.overrides)):
            found = {name: find_setting(tables, name) for name in self.space.dimensions}
            given |= {name: value for name, value in found.items() if value is not None}
        return given

    def check_promises(self) -> None:
        """Raises RecipeError if no promise is about the answers."""
        if not any(getattr(self.limits, name) is not None for name in QUALITY):
            raise RecipeError(
                f"[{SECTION}] would choose the smallest network, since no promise is about its "
                f"answers; set one of {', '.join(QUALITY)} in [gates]"
            )

    def check_dimensions(self) -> None:
        """Raises RecipeError for a dimension or a value that is no setting of this recipe."""
        for name, values in self.space.dimensions.items():
            place = name.partition(".")[0]
            if place == "targets" and name.split(".")[1] != self.target:
                raise RecipeError(
                    f"search.{name} is not about the target {self.target}; "
                    f"{suggest_name(name.split('.')[1], [self.target])}"
                )
            if place not in SEARCHED:
                raise RecipeError(
                    f"search.{name}: no setting of {place} can be searched; "
                    f"{suggest_name(place, SEARCHED)}"
                )
            for value in values:
                if error := self.find_mistake({name: value}):
                    raise RecipeError(f"search.{name} = {value!r}: {error}") from error

    def check_values(self) -> None:
        """Raises RecipeError for a value that is ruled out beside all values of the others."""
        left = [variant for variant in self.variants if variant.name not in self.ruled_out]
        if not left:
            first = self.variants[0]
            raise RecipeError(
                f"[{SECTION}]: its {len(self.variants)} combinations of values are all ruled out, "
                f"such as {first.title}: {self.ruled_out[first.name]}"
            )
        for name, values in self.space.dimensions.items():
            usable = [variant.settings[name] for variant in left]
            for value in values:
                if value not in usable:
                    having = next(each for each in self.variants if each.settings[name] == value)
                    raise RecipeError(
                        f"search.{name} = {value!r}: {self.ruled_out[having.name]}; leave this "
                        "value out"
                    )

    def find_mistake(self, settings: Mapping[str, Any]) -> RecipeError | None:
        """Return why the recipe cannot have these settings; None if it can."""
        try:
            self.open(Variant(0, settings).overrides)
        except RecipeError as error:
            return error
        return None

    def explain_contradiction(self, variant: Variant, error: RecipeError) -> RecipeError:
        """Name the two dimensions whose values cannot go together; all, if no two are enough."""
        pairs = itertools.combinations(variant.settings.items(), 2)
        guilty = next((pair for pair in pairs if self.find_mistake(dict(pair))), None)
        named = guilty or tuple(variant.settings.items())
        words = " and ".join(f"search.{name} = {value!r}" for name, value in named)
        return RecipeError(f"{words} cannot go together: {error}; leave one of these values out")


def find_setting(tables: Mapping[str, Any], name: str) -> Any:
    """Return the value of a setting by its full name; None if the recipe does not give it."""
    value: Any = tables
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def format_inline(value: Any) -> str:
    """Return a value as TOML on one line: tables are inline."""
    array = tomlkit.array()
    array.append(value)
    return str(array[0].as_string())


def get_student(slots: Mapping[str, SlotBinding]) -> Distill:
    student = slots["student"].stage
    if not isinstance(student, Distill):
        raise TypeError("the student of a recipe is made by Distill")
    return student

"""The searched recipe: its search space, its variants as recipes, and every mistake in it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.core.graph import SlotBinding
from attar.pipeline.core.stage import Stage
from attar.pipeline.recipe.recipe import make_recipe_id
from attar.pipeline.recipe.search_space import SECTION, SearchSpace
from attar.pipeline.recipe.slot import Table
from attar.pipeline.recipe.tables import read_recipe
from attar.pipeline.store.store import Store
from attar.proof.verdicts.limits import GateLimits
from attar.recipes.workspace import Workspace, find_recipe, open_workspace
from attar.search.unfit import explain_unfit
from attar.search.variant import Variant
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
TRIAL_SECONDS = 1.0
"""The longest timing of one trial; `TimeEngines` has timed it beside all others already."""


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
        search.check_pins()
        search.check_dimensions()
        search.check_values()
        return search

    @cached_property
    def text(self) -> str:
        """The recipe's file as it was when the search began: what is edited since counts for the
        next one."""
        return find_recipe(self.recipe).read_text(encoding="utf-8")

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

    @cached_property
    def yardsticks(self) -> Mapping[str, Stage[Any]]:
        """What measures and judges the target, by slot: the same for all variants."""
        return select_yardsticks(self.open([]))

    @property
    def speed_batch(self) -> int:
        """The batch size at which variants are compared."""
        return choose_timed_batch(self.measure.optimize_for, self.measure.batch)

    @property
    def student(self) -> Distill:
        return get_student(self.open([]).recipe.pipeline.slots)

    def open(self, overrides: Sequence[str], name: str | None = None) -> Workspace:
        """Return the recipe with further settings. ``name`` is the one under which the store
        remembers it, if not the recipe's own."""
        return open_workspace(
            self.recipe,
            SLOTS,
            self.store,
            [*self.overrides, *overrides],
            [self.target],
            self.device,
            name=name or self.name,
            text=self.text,
        )

    def read_tables(self, overrides: Sequence[str]) -> Table:
        """Return the recipe's tables with further settings."""
        given = [*self.overrides, *overrides]
        return read_recipe(find_recipe(self.recipe), given, self.text)

    def open_trial(self, variant: Variant) -> Workspace:
        """Return a variant as a recipe whose target chooses among candidates, which are measured
        on validation. A target that lists none is its only candidate. The store remembers what
        each variant used last, beside what the recipe did.

        Raises RecipeError for values that cannot go together.
        """
        section = f"targets.{self.target}"
        tables = self.read_tables(variant.overrides)
        extra = [f"{section}.seconds={TRIAL_SECONDS}"]
        own = self.name or make_recipe_id(find_recipe(self.recipe))
        if "candidates" not in tables["targets"][self.target]:
            extra.append(f"{section}.candidates=[{{}}]")
        try:
            return self.open([*variant.overrides, *extra], f"{own}-search-{variant.name}")
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
        for tables in (stages, self.read_tables([])):
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

    def check_pins(self) -> None:
        """Raises RecipeError if variants would share an artifact that each makes for itself."""
        slots = self.open([]).recipe.pipeline.slots
        for name in STAGES:
            if slots[name].keep or f"{name}.keep" in self.space.dimensions:
                raise RecipeError(
                    f"{name}.keep pins one artifact, whatever the settings of a variant are, and "
                    "all would be measured as that one; remove it: what was made with a "
                    "variant's settings is reused"
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
                self.check_value(name, value)

    def check_value(self, name: str, value: Any) -> None:
        """Raises RecipeError for a value that the recipe cannot have, or that changes by what the
        variants are compared."""
        try:
            changed = self.open(Variant(0, {name: value}).overrides)
        except RecipeError as error:
            raise RecipeError(f"search.{name} = {value!r}: {error}") from error
        if select_yardsticks(changed) != self.yardsticks:
            raise RecipeError(
                f"search.{name} = {value!r} changes what is promised or how it is measured, which "
                f"is the same for all variants; set {name} itself, and search once for each value"
            )

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


def select_yardsticks(workspace: Workspace) -> dict[str, Stage[Any]]:
    """Return the stages that measure and judge the target, by slot."""
    slots = workspace.recipe.pipeline.slots.items()
    return {slot: each.stage for slot, each in slots if isinstance(each.stage, Judge | Measure)}


def get_student(slots: Mapping[str, SlotBinding]) -> Distill:
    student = slots["student"].stage
    if not isinstance(student, Distill):
        raise TypeError("the student of a recipe is made by Distill")
    return student

"""The search space of a recipe: the settings that ``attar search`` may choose, and their values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from attar.pipeline.core.errors import RecipeError, suggest_name
from attar.pipeline.recipe.setting_words import explain_value, list_fields_beside
from attar.pipeline.recipe.slot import Table

SECTION = "search"
MOST_VARIANTS = 256
EXAMPLE = '"student.options.width" = [8, 12, 16], or { low = 8, high = 16, step = 4 }'
ObjectiveName = Literal["speedup", "size", "score", "correlation", "agreement"]
Assignment = Mapping[str, Any]
"""A value for each dimension, which is named as in ``--set``: ``student.options.width``."""


class Span(BaseModel):
    """The integers from ``low`` to ``high``, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int
    high: int
    step: int = Field(1, ge=1)

    @property
    def size(self) -> int:
        return max(0, (self.high - self.low) // self.step + 1)

    def list_values(self) -> list[int]:
        return list(range(self.low, self.high + 1, self.step))


class ClusterResources(BaseModel):
    """What a job of a search asks Ray for. One machine asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_cpus: int = Field(1, ge=1)
    """Of each process of a training."""
    num_gpus: int = Field(0, ge=0)
    """Of each process of a training, which uses one at most."""
    processes: int = Field(1, ge=1)
    """Of a training, all on one node, as ``torchrun`` starts them."""
    target: str | None = Field(None, min_length=1)
    """The custom resource of the nodes that are like the target. Timings are taken there alone,
    each with all CPUs and GPUs of its node."""
    max_retries: int = Field(3, ge=0)
    """How often a job begins again after its node or its process was lost."""

    @field_validator("num_gpus")
    @classmethod
    def _has_a_use(cls, count: int) -> int:
        if count > 1:
            raise ValueError(
                f"a process uses one GPU, and {count - 1} more would be idle; set num_gpus = 1 and "
                f"processes = {count}, or more of them"
            )
        return count


class SearchSpace(BaseModel):
    """The section ``[search]``. Its other keys are dimensions: settings of the recipe by their full
    name, each with a list of values, or with ``{ low, high, step }`` for integers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    trials: int = Field(24, ge=1)
    """The most students that are trained."""
    objective: ObjectiveName = "speedup"
    """What is best among all that keep the promises: the largest speedup, the fewest
    bytes of the engine, or the largest value of a measure on validation."""
    parallel: int = Field(1, ge=1, le=64)
    """Trainings that are chosen at once. They run at once on a cluster, one after the other on one
    machine, and all choices are the same."""
    resources: ClusterResources = ClusterResources()
    """What each job asks of a cluster."""
    dimensions: Mapping[str, tuple[Any, ...]] = Field(min_length=1)

    def list_assignments(self) -> Iterator[Assignment]:
        """Yield every combination of values."""
        for values in itertools.product(*self.dimensions.values()):
            yield dict(zip(self.dimensions, values, strict=True))


def read_search_space(tables: Table) -> SearchSpace | None:
    """Return the search space of a recipe; None if it has no ``[search]``.

    Raises RecipeError for an unknown key, a dimension without values or inside another one, and a
    space of more than ``MOST_VARIANTS`` combinations.
    """
    section = tables.get(SECTION)
    if section is None:
        return None
    if not isinstance(section, dict):
        raise RecipeError(f"{SECTION} must be a section, [{SECTION}]; got {section!r}")
    dimensions = {name: read_values(name, section[name]) for name in section if "." in name}
    settings = {name: value for name, value in section.items() if "." not in name}
    if not dimensions:
        raise RecipeError(f"[{SECTION}] names no setting to choose; write such as {EXAMPLE}")
    own = "trials, objective, parallel, resources"
    known = f"{own}, and full names of settings, in quotes because of their dots"
    if "dimensions" in settings:
        raise RecipeError(f"{SECTION}.dimensions is no setting; [{SECTION}] holds {known}")
    try:
        space = SearchSpace(**settings, dimensions=dimensions)
    except ValidationError as error:
        lines = [explain_space_error(item) for item in error.errors()]
        raise RecipeError("\n".join(lines) + f"; [{SECTION}] holds {known}") from error
    check_nesting(list(dimensions))
    check_size([len(values) for values in space.dimensions.values()])
    return space


def explain_space_error(error: ErrorDetails) -> str:
    place, name = error["loc"], ".".join([SECTION, *map(str, error["loc"])])
    if error["type"] != "extra_forbidden":
        return explain_value(name, [error])
    known = list_fields_beside(SearchSpace, place).keys() - {"dimensions"}
    return f"{name}: unknown field; {suggest_name(str(place[-1]), known)}"


def read_values(name: str, given: Any) -> tuple[Any, ...]:
    """Return the values of a dimension, each once and in order. Raises RecipeError."""
    if isinstance(given, dict):
        try:
            span = Span(**given)
        except ValidationError as error:
            raise RecipeError(f"search.{name} = {given!r}: write such as {EXAMPLE}") from error
        check_size([span.size])
        values: list[Any] = span.list_values()
    elif isinstance(given, list):
        check_size([len(given)])
        values = given
    else:
        raise RecipeError(f"search.{name} = {given!r}: write such as {EXAMPLE}")
    if not values:
        raise RecipeError(f"search.{name} = {given!r} holds no value; write such as {EXAMPLE}")
    repeated = [value for place, value in enumerate(values) if value in values[:place]]
    if repeated:
        raise RecipeError(f"search.{name} lists {repeated[0]!r} twice; remove one")
    return tuple(values)


def check_nesting(names: Sequence[str]) -> None:
    """Raises RecipeError if a dimension is a part of another one, which would overwrite it."""
    for outer, inner in itertools.permutations(names, 2):
        if inner.startswith(f"{outer}."):
            raise RecipeError(
                f"search.{inner} is a part of search.{outer}, so each overwrites what the other "
                "chose; keep one of them"
            )


def check_size(counts: Sequence[int]) -> None:
    """Raises RecipeError if dimensions of so many values have too many combinations."""
    size = math.prod(counts)
    if size > MOST_VARIANTS:
        raise RecipeError(
            f"[{SECTION}] has {size} combinations, and each is built and timed: list at most "
            f"{MOST_VARIANTS}, by fewer values or a larger step"
        )

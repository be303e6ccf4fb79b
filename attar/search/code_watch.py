"""Watches the code of a search: trials that ran different code cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.names import place_of
from attar.pipeline.keys.deciders import list_code_names
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.search.recipe_search import RecipeSearch
from attar.search.variant import Variant


@dataclass(frozen=True)
class CodeWatch:
    """The code of all variants, as it was when the search began."""

    code: Fingerprint
    definitions: Mapping[str, str]

    @classmethod
    def start(cls, search: RecipeSearch) -> Self:
        """Read the code that each value of each dimension names. (All combinations may be many.)"""
        names: set[str] = set()
        for dimension, values in search.space.dimensions.items():
            for value in values:
                opened = search.open_trial(Variant(0, {dimension: value}))
                for bound in opened.recipe.pipeline.slots.values():
                    names |= {place_of(type(bound.stage)), *list_code_names(bound.stage)}
        code = search.open([]).run.code
        definitions = code.of(names).definitions
        code.remember()
        return cls(code, definitions)

    def check(self) -> None:
        """Raises StageError that names the files whose code changed; comments do not count."""
        if edited := self.code.edited(self.definitions):
            raise StageError(
                f"{', '.join(edited)} changed during the search, and students of different code "
                "cannot be compared; run the same command again, which reuses what its code left "
                "as it was"
            )

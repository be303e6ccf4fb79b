"""The winner: its recipe as a file of its own, and what the test split says of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.items import AbstractTable

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe.search_space import SECTION
from attar.proof.gate import combine_verdicts
from attar.proof.report.record import Record
from attar.proof.report.target import group_targets
from attar.recipes.workspace import SHIPPED, find_recipe
from attar.search.recipe_search import RecipeSearch
from attar.search.result import VariantResult, WinnerTest
from attar.search.variant import format_inline
from attar.stages.choose.stage import format_open_gate


def choose_place(recipe: str) -> Path:
    """Return the file of the winner's recipe: beside the searched one, since its paths are relative
    to it; of a shipped recipe in the working directory."""
    path = find_recipe(recipe)
    folder = Path.cwd() if path.parent == SHIPPED else path.parent
    return folder / f"{path.stem}-found.toml"


def write_winner(search: RecipeSearch, winner: VariantResult) -> Path:
    """Write the recipe without its search space and other targets, with the command's overrides and
    the winner's settings. Comments stay. Raises RecipeError if the file cannot be written."""
    document = tomlkit.parse(search.text)
    document.pop(SECTION, None)  # of a command alone, it is not in the file
    document = drop_other_targets(document, search.target)
    for override in search.overrides:
        place, _, value = override.partition("=")
        if concerns_winner(search, place.strip().split(".")):
            set_value(document, place.strip(), value)
    for place, value in winner.settings.items():
        set_value(document, place, format_inline(value))
    head = f"# Found by `attar search {Path(search.recipe).stem}`: {winner.title}.\n"
    file = choose_place(search.recipe)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(head + tomlkit.dumps(document), encoding="utf-8")
        return draft.replace(file)
    except OSError as error:
        raise RecipeError(
            f"cannot write the winner's recipe {file}: {error.strerror}; make its place writable "
            "and search again, which reuses all trainings"
        ) from error


def drop_other_targets(document: TOMLDocument, target: str) -> TOMLDocument:
    """Return the recipe without other targets, wherever their sections stand.

    What tomlkit shows as one table of sections in several places loses its place when some are
    deleted, so they are deleted place by place, and what is left is read anew.
    """
    for key, item in document.body:
        if key is not None and key.key == "targets" and isinstance(item, AbstractTable):
            for name in [name for name in item if name != target]:
                del item[name]
    return tomlkit.parse(tomlkit.dumps(document))


def concerns_winner(search: RecipeSearch, place: Sequence[str]) -> bool:
    """Whether the setting at a place is neither of the search nor of another target."""
    section, *rest = place
    is_other = section == "targets" and rest != [] and rest[0] != search.target
    return section != SECTION and not is_other


def set_value(document: Any, place: str, value: str) -> None:
    """Set one value, which is TOML. A table inside of a section is made inline: the header of a
    section of its own would take the lines that follow it, where the recipe has keys with dots."""
    *parents, last = place.split(".")
    table = document
    for depth, parent in enumerate(parents):
        made = tomlkit.inline_table() if depth else tomlkit.table()
        table = table.setdefault(parent, made)
    table[last] = tomlkit.parse(f"value = {value}\n")["value"]


def judge_winner(records: Sequence[Record]) -> WinnerTest:
    """Return the verdict on the test split, with the promises that were broken or left open: of
    both engines, if the target has two."""
    errors = tuple(record.error for record in records if record.error)
    targets = group_targets(records)
    judged = [target.judged.verdict for target in targets if target.judged]
    if len(judged) < len(targets):
        return WinnerTest("no verdict", errors)
    promises = [format_open_gate(gate) for target in targets for gate in target.open_gates]
    return WinnerTest(combine_verdicts(judged), (*promises, *errors))

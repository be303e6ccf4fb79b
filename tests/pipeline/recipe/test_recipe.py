"""Every mistake in a recipe is found when it is read, and its message says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from attar.pipeline.core.errors import RecipeError
from attar.pipeline.recipe import recipe as recipes
from attar.pipeline.recipe.recipe import Recipe, make_bundle_name
from attar.pipeline.recipe.schema import SchemaWithDocstrings, build_schema, read_docstrings
from attar.pipeline.recipe.slot import Slot
from attar.pipeline.recipe.tables import merge_tables
from attar.recipes.workspace import find_recipe
from tests.support.projects.toy import SLOTS, Constant, Double, Sum, Tasked

GOOD = """
seed = 3
[source]
value = 2.0
[double]
rounding = true
[targets.cpu]
limit = 5.0
[targets.big]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def load(folder: Path, text: str, *overrides: str, targets: tuple[str, ...] = (), table: tuple[Slot, ...] = SLOTS) -> Recipe:
    return recipes.load_recipe(write(folder, text), table, overrides, targets)


def test_sections_are_slots_and_targets_become_suffixes(tmp_path: Path) -> None:
    made = load(tmp_path, GOOD)
    assert list(made.pipeline.slots) == ["source", "other", "double", "cpu.check", "big.check"]
    assert made.targets == ("cpu", "big")
    assert made.pipeline.slots["cpu.check"].stage.limit == 5.0  # type: ignore[attr-defined]  # the field of Check
    assert made.pipeline.slots["cpu.check"].inputs == {"double": "double"}


def test_the_seed_is_given_to_every_stage_that_has_one_and_a_section_s_own_wins(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).pipeline.slots["double"].stage == Double(seed=3, rounding=True)
    own = load(tmp_path, GOOD.replace("rounding = true", "seed = 9"))
    assert own.pipeline.slots["double"].stage == Double(seed=9)


def test_overrides_are_toml_and_win(tmp_path: Path) -> None:
    made = load(tmp_path, GOOD, "source.value=7.5", "targets.cpu.limit=1", "double.rounding=false")
    assert made.pipeline.slots["source"].stage == Constant(value=7.5)


def test_one_target_can_be_chosen(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, targets=("big",)).targets == ("big",)


def test_a_slot_may_take_another_section_s_settings(tmp_path: Path) -> None:
    table = (*SLOTS[:1], Slot("other", Constant, like=("source",)))
    assert load(tmp_path, "[source]\nvalue = 4", table=table).pipeline.slots["other"].stage == Constant(value=4)
    assert load(tmp_path, "[source]\nvalue = 4\n[other]\nvalue = 5", table=table).pipeline.slots["other"].stage == Constant(
        value=5
    )
    unlike = (*SLOTS[:1], Slot("other", Constant, like=("source",), unlike=("value",)))
    assert load(tmp_path, "[source]\nvalue = 4", table=unlike).pipeline.slots["other"].stage == Constant()


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "number.txt").write_text("5")
    made = load(tmp_path, "[source]\nfile = 'number.txt'")
    assert made.pipeline.slots["source"].stage == Constant(file=tmp_path / "number.txt")


def test_a_pinned_key_is_kept_apart_from_the_settings(tmp_path: Path) -> None:
    assert load(tmp_path, "[source]\nkeep = 'abc12345'").pipeline.slots["source"].keep == "abc12345"


class Hidden(Constant):
    keep: str = "best"


def test_a_stage_with_a_field_that_a_section_cannot_set_is_refused() -> None:
    with pytest.raises(TypeError, match=r"slot 'source': .* Hidden\.keep"):
        Slot("source", Hidden)


def test_a_key_of_an_optional_input_is_bound_beside_the_inputs(tmp_path: Path) -> None:
    slots = (Slot("source", Constant), Slot("sum", Sum))
    named, without = (load(tmp_path, text, table=slots).pipeline.slots["sum"] for text in ("[sum]\nmore = 'abc12345'", ""))
    assert (named.inputs, named.pinned) == ({"source": "source"}, {"more": "abc12345"})
    assert without.pinned == {}
    with pytest.raises(RecipeError, match=r"sum\.more .*'abc'; `attar ls`"):
        load(tmp_path, "[sum]\nmore = 'abc'", table=slots)


@pytest.mark.parametrize(
    ("file", "name"),
    [("mine.toml", "mine-cpu"), ("my recipe.toml", "my-recipe-cpu"), (".draft.toml", "draft-cpu"), ("模型.toml", "cpu")],
)
def test_a_bundle_has_a_name_whatever_the_recipe_s_file_is_called(file: str, name: str) -> None:
    assert make_bundle_name(Path(file), "cpu") == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = = 1", "is not TOML"),
        ("[sorce]\nvalue = 1", r"unknown name 'sorce'; did you mean 'source'\? known: "),
        ("[source]\nvalu = 1", r"source\.valu: .*'value'\?"),
        ("[source]\nvalue = 'x'", r"source\.value must be a number; got 'x'"),
        ("[source]\nvalue = -1", r"source\.value must be .*got -1"),
        ("source = 3", r"\[source\]; got 3"),
        ("[source]\nfile = 'gone.txt'", r"source\.file: .*gone\.txt; .*recipe\.toml or with --set source\.file='\"FILE\"'"),
        ("[targets.cpu]\nlimt = 1", r"\[targets\.cpu\]: .*'limt'"),
        ("[source]\nkeep = 5", r"source\.keep .*got 5"),
        ("[source]\nvalue = inf", r"source\.value must be .*got inf"),
        ("[targets]\ncpu = 1", r"\[targets\] .*got cpu = 1"),
        ("[targets.'../x']", "digits and _"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source.value", r"slot.field=value"),
        ("source.value=abc", "is no TOML value"),
        ("source.value.deep=1", "source.value is a value|value is a value"),
        ("sorce.value=1", "unknown name 'sorce'"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, GOOD, override)


def test_an_unknown_target_gets_a_guess(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--target.*'cup'.*'cpu'\?"):
        load(tmp_path, GOOD, targets=("cup",))


def test_an_unknown_recipe_names_those_that_are_shipped() -> None:
    with pytest.raises(RecipeError, match="'digitz'"):
        find_recipe("digitz")


def test_code_that_is_not_there_is_found_without_importing(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("raise SystemExit('imported')\nclass Birds: ...\n")
    table = (Slot("tasked", Tasked),)
    load(tmp_path, "task = 'task.py:Birds'", table=table)
    with pytest.raises(RecipeError, match=r"tasked: .*'Brids'; .*'Birds'\?"):
        load(tmp_path, "task = 'task.py:Brids'", table=table)
    with pytest.raises(RecipeError, match="names no object; write"):
        load(tmp_path, "task = 'task.py'", table=table)
    with pytest.raises(RecipeError, match=r"tasked\.task .*task = "):
        load(tmp_path, "", table=table)


def test_merged_goes_table_by_table() -> None:
    assert merge_tables({"a": 1, "hops": {"x": 1, "y": 2}}, {"hops": {"x": 3}, "b": 4}) == {
        "a": 1,
        "hops": {"x": 3, "y": 2},
        "b": 4,
    }


def test_the_schema_has_every_slot_and_hides_what_a_recipe_does_not_write() -> None:
    made = build_schema(SLOTS)
    assert {"source", "double", "targets", "task", "seed"} <= set(made["properties"])
    assert set(made["properties"]["source"]["properties"]) == {"value", "file", "keep"}
    assert set(made["properties"]["targets"]["additionalProperties"]["properties"]) == {"limit", "fail"}


class Plain(BaseModel):
    first: int = 0
    """Of the first."""
    second: int = 0


class Derived(Plain):
    second: int = 1
    """Of the second,
    on two lines."""
    third: str = "no words"


def test_a_field_is_described_by_its_docstring_or_by_that_of_the_class_it_comes_from() -> None:
    assert read_docstrings(Derived) == {"first": "Of the first.", "second": "Of the second,\non two lines."}
    made = Derived.model_json_schema(schema_generator=SchemaWithDocstrings)["properties"]
    assert made["first"]["description"] == "Of the first."
    assert "description" not in made["third"]

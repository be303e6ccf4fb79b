"""What is said of a setting that is not what a recipe may write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attar.pipeline.recipe.setting_errors import explain_errors
from attar.pipeline.recipe.setting_words import list_fields_beside


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1, lt=10)


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str
    tail: float = Field(1.0, gt=0)


class Zoo(BaseModel):
    options: dict[str, bool | int | float | str] = {}
    sizes: tuple[int, int] = (1, 2)
    names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    place: Path = Path()
    some: int | Literal["all"] = 1
    layers: str | tuple[str, str] = ""
    shapes: dict[str, tuple[int, ...]] = {}
    code: Annotated[str, Field(pattern="^[a-z]{2}$")] = "aa"
    animals: tuple[Annotated[Cat | Dog, Field(discriminator="kind")], ...] = Field((), max_length=2)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"options": []}, "options must be a table, such as { name = value }; got []"),
        ({"options": {"a": []}}, "options.a must be true or false, a whole number, a number or a text in quotes; got []"),
        ({"sizes": 3}, "sizes must be a list, such as [1, 2]; got 3"),
        ({"sizes": [3]}, "sizes must be a list of more than 1; got [3]"),
        ({"sizes": [1, 2, 3]}, "sizes must be a list of at most 2; got [1, 2, 3]"),
        ({"sizes": [1, 0.5]}, "sizes.1 must be a whole number; got 0.5"),
        ({"names": [""]}, "names.0 must be a text of at least 1 character; got ''"),
        ({"place": 1}, 'place must be a path in quotes, such as "folder/file"; got 1'),
        ({"some": "x"}, "some must be a whole number or 'all'; got 'x'"),
        ({"layers": 1}, "layers must be a text in quotes or a list, such as [1, 2]; got 1"),
        ({"layers": ["a", 1]}, "layers.1 must be a text in quotes; got 1"),
        ({"layers": ["a"]}, "layers must be a list of more than 1; got ['a']"),
        ({"shapes": {"x[0]": 1}}, "shapes.x[0] must be a list, such as [1, 2]; got 1"),
        ({"shapes": {"int": [0.5]}}, "shapes.int.0 must be a whole number; got 0.5"),
        ({"options": {"int": []}}, "options.int must be true or false, a whole number, a number or a text in quotes; got []"),
        ({"code": "x"}, "code must be a text that matches ^[a-z]{2}$; got 'x'"),
        ({"animals": [1]}, "animals.0 must be a table, such as { name = value }; got 1"),
        ({"animals": [{}]}, 'animals.0 is missing its kind; write kind = "..."'),
        ({"animals": [{"kind": "cow"}]}, "animals.0: unknown kind 'cow'; known: cat, dog"),
        (
            {"animals": [{"kind": "cat", "live": 1}]},
            "animals.0.cat.live: unknown field; did you mean 'lives'? known: kind, lives",
        ),
        ({"animals": [{"kind": "dog"}]}, "animals.0.dog.name is missing; write name = ... in student.animals.0.dog"),
        ({"animals": [{"kind": "cat", "lives": 0}]}, "animals.0.cat.lives must be at least 1; got 0"),
        ({"animals": [{"kind": "cat", "lives": 10}]}, "animals.0.cat.lives must be less than 10; got 10"),
        ({"animals": [{"kind": "dog", "name": "x", "tail": 0}]}, "animals.0.dog.tail must be more than 0.0; got 0"),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_the_words_of_a_recipe(written: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Zoo(**written)
    stage: Any = Zoo  # what is said of a stage's settings needs its fields alone
    assert explain_errors("student", stage, written, caught.value) == f"student.{told}"


def test_the_fields_of_a_kind_are_found_by_its_name() -> None:
    assert set(list_fields_beside(Zoo, ("animals", 0, "dog", "x"))) == {"kind", "name", "tail"}
    assert list_fields_beside(Zoo, ("options", "a", "x")) == {}

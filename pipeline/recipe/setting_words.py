"""Setting words: what a setting must be, in the words of a recipe and not in those of Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from attar.pipeline.core.errors import suggest_name

Place = tuple[int | str, ...]
"""The names and the numbers of list items that lead to a setting."""
TABLE = "a table, such as {{ name = value }}"
WHOLE = "a whole number"
WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": TABLE,
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": WHOLE,
    "int_type": WHOLE,
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_attributes_type": TABLE,
    "model_type": TABLE,
    "path_type": 'a path in quotes, such as "folder/file"',
    "string_pattern_mismatch": "a text that matches {pattern}",
    "string_too_short": "a text of at least {min_length} character",
    "string_type": "a text in quotes",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list, such as [1, 2]",
}
"""By pydantic's name of an error, what is wanted; in braces what pydantic knows of the limit."""


def drop_branches(place: Place, settings: Any) -> Place:
    """Return the place of an error without the kinds that pydantic puts behind the place of a
    setting which may be of several kinds. What the settings have there is no such kind."""
    kept: list[int | str] = []
    for part in place:
        inner = find_inside(settings, part)
        if inner is None and is_branch(str(part)):
            continue
        kept.append(part)
        settings = settings if inner is None else inner
    return tuple(kept)


def find_inside(value: Any, part: int | str) -> Any:
    """Return what a table or a list has at a part of a place; None if it has nothing there."""
    if isinstance(value, Mapping):
        return value.get(part)
    is_listed = isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
    return value[part] if is_listed else None


def is_branch(part: str) -> bool:
    """Whether pydantic calls a kind so."""
    return part in ("bool", "int", "float", "str") or "[" in part or part.startswith("constrained-")


def explain_value(name: str, errors: Sequence[ErrorDetails]) -> str:
    """Return the sentence about a value that a setting cannot have. A setting that may be of
    several kinds has an error for each."""
    error = errors[0]
    if error["type"].startswith("union_tag"):
        return explain_kind(name, error)
    if all(each["type"] in WANTED for each in errors):
        return f"{name} must be {list_wanted(errors)}; got {error['input']!r}"
    return f"{name}: {error['msg'].removeprefix('Value error, ')}; got {error['input']!r}"


def list_wanted(errors: Sequence[ErrorDetails]) -> str:
    wanted = [WANTED[error["type"]].format(**error.get("ctx", {})) for error in errors]
    *others, last = dict.fromkeys(wanted)
    return f"{', '.join(others)} or {last}" if others else last


def explain_kind(place: str, error: ErrorDetails) -> str:
    """Return the sentence about a table whose kind is missing or unknown."""
    known = error["ctx"]
    tag = known["discriminator"].strip("'")
    if error["type"] == "union_tag_not_found":
        return f'{place} is missing its {tag}; write {tag} = "..."'
    names = [name.strip("' ") for name in known["expected_tags"].split(",")]
    return f"{place}: unknown {tag} {known['tag']!r}; {suggest_name(known['tag'], names)}"


def find_models(annotation: Any) -> Iterable[type[BaseModel]]:
    """Return the models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in find_models(part)]


def is_kind(model: type[BaseModel], name: str) -> bool:
    """Whether a field of the model says that it is of this kind."""
    return any(name in get_args(field.annotation) for field in model.model_fields.values())


def list_fields_beside(model: type[BaseModel], place: Sequence[int | str]) -> Mapping[str, Any]:
    """Return the fields of the model that has the last name of ``place``; none if what is on the
    way there is no model."""
    models = [model]
    for part in (name for name in place[:-1] if isinstance(name, str)):
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        found = [inner for field in fields for inner in find_models(field.annotation)]
        models = found or [each for each in models if is_kind(each, part)]
    return models[0].model_fields if len(models) == 1 else {}

"""Names of code: ``package.module:object`` or ``file.py:object``, as a recipe writes them."""

from __future__ import annotations

import importlib
import re
from typing import Any

from attar.pipeline.core.errors import RecipeError, StageError, suggest_name

PATTERN = re.compile(r"^(?P<module>[A-Za-z_][\w./]*?)(?P<file>\.py)?:(?P<object>[A-Za-z_]\w*)$")


def split_name(name: str) -> tuple[str, str]:
    """Split ``"nets/small.py:student"`` into ``("nets.small", "student")``. The recipe's folder is
    first on the import path."""
    match = PATTERN.match(name)
    if match is None:
        raise RecipeError(
            f"{name!r} names no object; write 'package.module:object' or 'file.py:object'"
        )
    return match["module"].replace("/", "."), match["object"]


def load_object(name: str) -> Any:
    """Import the object. User code runs here for the first time."""
    module_name, attribute = split_name(name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise StageError(
            f"cannot import {name!r}: {error}; is it beside the recipe, or installed?"
        ) from error
    if not hasattr(module, attribute):
        raise StageError(
            f"{module_name} has no {attribute!r}: "
            f"{suggest_name(attribute, list_public_names(module))}"
        )
    return getattr(module, attribute)


def list_public_names(module: Any) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")]


def place_of(kind: type) -> str:
    """Return ``module:Class``."""
    return f"{kind.__module__}:{kind.__qualname__}"

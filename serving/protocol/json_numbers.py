"""Reads a flat JSON array of numbers without an object for each."""

from __future__ import annotations

from collections.abc import Mapping
from threading import local
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import orjson
import simdjson

from attar.models.task import Array
from attar.models.tensors import TensorSpec
from attar.serving.core.errors import BadRequestError
from attar.serving.protocol.signature import BYTES, find_datatype
from attar.serving.protocol.tensors import DTYPES, read_elements

Body: TypeAlias = bytes | bytearray
FORMS: Mapping[str, tuple[Literal["d", "i", "u"], type[Any]]] = {
    "i": ("i", np.int64),
    "u": ("u", np.uint64),
    "f": ("d", np.float64),
}
"""For each kind of dtype, simdjson's code for its widest type, and that type."""
_own = local()


def read_piece(spec: TensorSpec, text: bytes) -> Array:
    """Read a flat array in JSON, ``[N]``. simdjson reads what is certain; orjson all else, and has
    the last word."""
    made = (
        None
        if find_datatype(spec) in (BYTES, "BOOL")
        else read_numbers(DTYPES[find_datatype(spec)], text)
    )
    return read_elements(spec, parse_json(text)) if made is None else made


def read_numbers(dtype: np.dtype[Any], text: bytes) -> Array | None:
    """Return the numbers; None where the dtype does not hold all of them, or they are not
    numbers."""
    form, widest = FORMS[dtype.kind]
    try:
        wide: Array = np.frombuffer(
            cast(simdjson.Array, own_parser().parse(text)).as_buffer(of_type=form), widest
        )
    except (ValueError, TypeError, RuntimeError):  # orjson reads it
        return None
    if dtype == widest:
        return wide
    if dtype.kind == "f":
        with np.errstate(over="ignore"):  # checked below
            narrow = wide.astype(dtype)
        return narrow if np.isfinite(narrow).all() else None
    limits = np.iinfo(dtype)
    return (
        wide.astype(dtype)
        if wide.min(initial=0) >= limits.min and wide.max(initial=0) <= limits.max
        else None
    )


def own_parser() -> simdjson.Parser:
    """Return the parser of this thread: making one anew for each request takes half as long
    again."""
    made: simdjson.Parser | None = getattr(_own, "parser", None)
    if made is None:
        made = _own.parser = simdjson.Parser()
    return made


def parse_json(text: Body) -> Any:
    """Return what JSON says. Raises BadRequestError for what is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error

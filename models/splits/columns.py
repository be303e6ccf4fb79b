"""Columns of tables, of pyarrow: their types, their empty cells, and the same as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from attar.models.task import Array


def is_integer(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_integer(kind) or types.is_boolean(kind))


def is_number(kind: Any) -> bool:
    from pyarrow import types

    return is_integer(kind) or bool(types.is_floating(kind))


def is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def find_filled(column: Any) -> npt.NDArray[np.bool_]:
    """Return which cells hold something. A blank text is an empty cell: of one in a CSV file
    pyarrow reads ``""``. A list with an empty place is one, too."""
    from pyarrow import compute

    valid = compute.is_valid(column)
    if is_text(column.type):
        blank = compute.or_(compute.equal(column, ""), compute.utf8_is_space(column))
        valid = compute.fill_null(compute.invert(blank), False)
    filled = np.array(valid)
    if is_list(column.type):
        owners = np.asarray(compute.list_parent_indices(column))
        filled[owners[~find_filled(compute.list_flatten(column))]] = False
    return filled


def convert_column(column: Any) -> Array | None:
    """Return a column without empty cells as numpy, lists of one length as ``[N, length]``, or None
    if its type is no array. Of an image of ``datasets`` its bytes count."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return convert_column(compute.struct_field(column, "bytes"))
    if is_list(kind):
        return convert_lists(column)
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    if is_number(kind) or is_text(kind) or is_bytes:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    return None


def convert_lists(column: Any) -> Array | None:
    from pyarrow import compute

    lengths = compute.list_value_length(column).unique().to_pylist()
    values = convert_column(compute.list_flatten(column))
    if len(lengths) > 1 or values is None:
        return None
    return values.reshape(len(column), *lengths or [0], *values.shape[1:])

"""Content: the bytes of a raw input. Strings and other objects count by their value, not by their
place in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from attar.models.task import Array
from attar.pipeline.core.errors import StageError


def read_content(value: Any) -> bytes:
    """Return the bytes of one sample of one input, preceded by their number, so that the inputs of
    different samples never join to the same bytes.

    Numbers give their own bytes, text its UTF-8, and each object of an array its own content.
    Raises StageError for other objects.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        content = b"".join(read_content(item) for item in value.ravel().tolist())
    elif isinstance(value, str):
        content = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        content = value
    elif isinstance(value, np.ndarray | np.generic):
        content = value.tobytes()
    else:
        raise StageError(
            f"a raw input holds {type(value).__name__} objects; give arrays of numbers, str, bytes "
            "or such arrays"
        )
    return len(content).to_bytes(8, "little") + content


def has_same_content(one: Array, two: Array) -> bool:
    return one.shape == two.shape and read_content(one) == read_content(two)

"""Content: what a raw input is, byte for byte; of strings and other objects what they say, not
where they lie in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from attar.models.task import Array
from attar.pipeline.core.errors import StageError


def read_content(value: Any) -> bytes:
    """The bytes of one sample of one input, in front of them how many: no two samples' inputs join
    to the same bytes.

    Numbers give their own bytes, text its UTF-8, and each object of an array its own content.
    Raises StageError for other objects.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        made = b"".join(read_content(each) for each in value.ravel().tolist())
    elif isinstance(value, str):
        made = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        made = value
    elif isinstance(value, np.ndarray | np.generic):
        made = value.tobytes()
    else:
        raise StageError(
            f"a raw input holds {type(value).__name__} objects; give arrays of numbers, str, bytes "
            "or such arrays"
        )
    return len(made).to_bytes(8, "little") + made


def has_same_content(one: Array, two: Array) -> bool:
    return one.shape == two.shape and read_content(one) == read_content(two)

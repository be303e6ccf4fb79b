"""A tensor's description, and what fits it."""

from __future__ import annotations

import numpy as np
import pytest

from attar.models.tensors import TensorSpec, find_input_mismatch, find_mismatch

SPEC = TensorSpec("float32", ("batch", "length", 3), name="x")


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((2, 5, 3), "float32", None),
        ((2, 5, 4), "float32", "got float32 [2, 5, 4]"),
        ((2, 3), "float32", "got float32 [2, 3]"),
        ((2, 5, 3), "float64", "got float64 [2, 5, 3]"),
        ((2, 5, 3), ">f4", "in the other byte order"),
        ((9, 5, 3), "float32", "batch = 9, must be 1 to 8"),
    ],
)
def test_an_array_that_fits_or_does_not(shape: tuple[int, ...], dtype: str, reason: str | None) -> None:
    mismatch = find_mismatch(SPEC, shape, np.dtype(dtype), {"batch": (1, 8)})
    assert mismatch is None if reason is None else reason in str(mismatch)


def test_a_dtype_that_is_not_given_is_not_compared() -> None:
    assert find_mismatch(SPEC, (2, 5, 3)) is None
    assert find_mismatch(SPEC, (2, 5, 4)) == "must be float32 [batch, length, 3], got [2, 5, 4]"


def test_tensors_agree_in_the_sizes_of_their_axes() -> None:
    sizes: dict[str, int] = {}
    assert find_mismatch(SPEC, (2, 5, 3), sizes=sizes) is None
    assert sizes == {"batch": 2, "length": 5}
    mismatch = find_mismatch(TensorSpec("int64", ("batch",)), (3,), sizes=sizes)
    assert mismatch == "must be int64 [batch] with batch 2, got [3]"


def test_inputs_are_those_of_the_graph() -> None:
    x = np.zeros((2, 5, 3), np.float32)
    assert find_input_mismatch([SPEC], {"x": x}) is None
    assert "wants an input 'x'" in str(find_input_mismatch([SPEC], {"y": x}))
    assert "no input 'z'" in str(find_input_mismatch([SPEC], {"x": x, "z": x}))
    assert "input 'x' must be" in str(find_input_mismatch([SPEC], {"x": x[0]}))


def test_the_shape_for_some_sizes() -> None:
    assert SPEC.shape({"batch": 4, "length": 7}) == (4, 7, 3)

"""The largest of many numbers: what a stable sort of all would give, ties included."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from attar.models.largest import find_largest


@given(
    arrays.arrays(np.float64, (3, 9), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]) | st.floats(-9, 9)),
    st.integers(1, 9),
)
def test_the_largest_are_the_first_of_a_stable_sort(scores: npt.NDArray[np.float64], count: int) -> None:
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert find_largest(scores, count).tolist() == expected.tolist()


def test_by_hand_with_ties_within_and_across_the_border() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 7.0, 5.0, 5.0], [-np.inf, -np.inf, 0.0, -np.inf]])
    assert find_largest(scores, 2).tolist() == [[1, 2], [1, 0], [2, 0]]

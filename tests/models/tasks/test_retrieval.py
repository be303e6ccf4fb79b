"""Retrieval by hand: who is found, who counts, where the sums of a group stand, and what finds nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.tasks import retrieval as module
from attar.models.tasks.retrieval import compute_share_found, measure_retrieval, sum_groups


def on_a_circle(*degrees: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_by_hand() -> None:
    """Of a (0 and 10 degrees) both find each other; of b (90 and 150) neither does, for the lone c at 110 lies between them."""
    made = measure_retrieval(on_a_circle(0, 90, 10, 150, 110), np.array(["a", "b", "a", "b", "c"]))
    assert made.tolist() == [[1, 1], [0, 1], [1, 1], [0, 1], [0, 0]]
    assert compute_share_found(made) == 0.5
    nearer = measure_retrieval(on_a_circle(0, 90, 10, 150, 200), np.array(["a", "b", "a", "b", "c"]))
    assert nearer[[1, 3]].tolist() == [[1, 1], [0, 1]]  # 150 is 60 from 90 and 50 from the lone 200; 90 finds 150 before 10


def test_of_one_group_alone_nothing_counts() -> None:
    assert measure_retrieval(np.zeros((3, 2)), np.array([1, 1, 1])).tolist() == [[0, 0]] * 3


def test_lengths_do_not_matter() -> None:
    vectors, groups = on_a_circle(0, 90, 10, 150, 110), np.array([0, 1, 0, 1, 2])
    assert (measure_retrieval(vectors * [[1], [9], [0.1], [3], [1e6]], groups) == measure_retrieval(vectors, groups)).all()


@pytest.mark.parametrize("vectors", [np.full((6, 3), 0.1), np.zeros((6, 3))], ids=["one direction", "zeros"])
def test_what_tells_nothing_apart_finds_nothing(vectors: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    made = measure_retrieval(vectors, np.array([0, 0, 1, 1, 2, 2]))
    assert made.sum(0).tolist() == [0, 6]
    assert compute_share_found(made) == 0


def test_without_pairs_nothing_counts() -> None:
    assert compute_share_found(measure_retrieval(on_a_circle(0, 90), np.array([4, 7]))) == 0
    assert measure_retrieval(on_a_circle(0), np.array([4])).tolist() == [[0, 0]]


def test_the_sums_of_a_group_stand_in_the_row_of_its_first_sample() -> None:
    groups = np.array(["b", "a", "b", "c", "a"])
    statistics = np.array([[1.0, 1], [0, 1], [1, 1], [0, 0], [1, 1]])
    made = sum_groups(statistics, groups)
    assert made.tolist() == [[2, 2], [1, 2], [0, 0], [0, 0], [0, 0]]
    assert compute_share_found(made) == compute_share_found(statistics)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_in_how_many_blocks_it_is_computed_changes_nothing_and_it_is_what_a_loop_finds(seed: int, entries: int) -> None:
    generator = np.random.default_rng(seed)
    vectors, groups = generator.standard_normal((12, 3)), generator.integers(0, 4, 12)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = 0
    for row in range(12):
        others = [other for other in range(12) if other != row]
        nearest = max(others, key=lambda other: float(unit[row] @ unit[other]))
        found += int(groups[nearest] == groups[row])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ENTRIES", entries)
        made = measure_retrieval(vectors, groups)
    assert made[:, 0].sum() == found
    assert made[:, 1].sum() == sum(int((groups == each).sum() > 1) for each in groups)

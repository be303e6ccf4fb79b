"""Content: strings by what they say, and no two samples alike by accident."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.checks import content
from attar.pipeline.core.errors import StageError


@given(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1), st.integers(1, 9))
def test_text_counts_and_the_kind_of_its_array_does_not(texts: list[str], wider: int) -> None:
    objects, fixed = np.array(texts, object), np.array(texts)
    assert content.has_same_content(objects, fixed)
    assert content.has_same_content(fixed, fixed.astype(f"U{fixed.dtype.itemsize // 4 + wider}"))
    assert content.read_content(fixed[0]) == content.read_content(objects[0])
    assert not content.has_same_content(objects, np.array([*texts[:-1], texts[-1] + "x"], object))


def test_samples_that_are_cut_elsewhere_differ() -> None:
    assert b"".join(map(content.read_content, ["ab", "c"])) != b"".join(map(content.read_content, ["a", "bc"]))


@pytest.mark.parametrize("value", [b"\xff\x00", np.arange(3), np.float32(2.5), np.bool_(True)])
def test_equal_values_in_other_places_are_the_same(value: Any) -> None:
    one, two = np.empty(2, object), np.empty(2, object)
    for made in (one, two):
        made[:] = [value if isinstance(value, bytes) else value.copy(), "text"]
    assert content.has_same_content(one, two)
    two[0] = b"other"
    assert not content.has_same_content(one, two)


def test_numbers_differ_by_their_bits() -> None:
    assert not content.has_same_content(np.array([0.0]), np.array([-0.0]))
    assert not content.has_same_content(np.zeros((1, 2)), np.zeros((2, 1)))


def test_other_objects_are_refused() -> None:
    with pytest.raises(StageError, match="holds dict objects"):
        content.read_content(np.array([{}], object))

"""Shuffle buffer: what is taken of it is what joined batches have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.batches import join_batches
from attar.models.shuffle_buffer import ShuffleBuffer
from attar.models.task import Array
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError

PADS = {"x": -1, "y": 0}


def make_batch(start: int, size: int, labelled: int, length: int) -> ViewBatch:
    indices = np.arange(start, start + size)
    inputs: dict[str, Array] = {"x": np.broadcast_to(indices[:, None], (size, length)).copy(), "y": indices.astype(np.float32)}
    return ViewBatch(indices, inputs, {"label": 10 * indices[:labelled]})


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(1, 3)), min_size=1, max_size=4), st.randoms())
def test_it_gives_the_samples_of_the_joined_batches(shapes: list[tuple[int, int, int]], random: object) -> None:
    starts = np.cumsum([0, *(size for size, _, _ in shapes)]).tolist()
    parts = [make_batch(start, n, min(own, n), length) for start, (n, own, length) in zip(starts, shapes, strict=False)]
    joined, buffer = join_batches(parts, PADS), ShuffleBuffer(parts, PADS)
    wanted = list(range(starts[-1]))
    random.shuffle(wanted)  # type: ignore[attr-defined]  # hypothesis does not export the type of st.randoms
    rows = np.array([joined.indices.tolist().index(index) for index in wanted])
    expected, found = joined.take(rows), buffer.take(np.array(wanted))
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.labelled == expected.labelled
    for name in PADS:
        np.testing.assert_array_equal(found.inputs[name], expected.inputs[name], strict=True)
    np.testing.assert_array_equal(found.targets["label"], expected.targets["label"], strict=True)


def test_values_keep_what_they_are_whatever_the_first_batch_has() -> None:
    whole = ViewBatch(np.array([0]), {"x": np.array([["a"]])}, {"y": np.array([1])})
    other = ViewBatch(np.array([1]), {"x": np.array([["abc"]])}, {"y": np.array([0.7])})
    for taken in (ShuffleBuffer([whole, other], {"x": 0}).take(np.array([1])), join_batches([whole, other], {"x": 0})):
        assert taken.inputs["x"][-1].tolist() == ["abc"]
        assert taken.targets["y"][-1] == 0.7


def test_targets_of_different_shapes_are_refused() -> None:
    parts = [ViewBatch(np.array([0]), {"x": np.zeros((1, 1))}, {"y": np.zeros((1, n))}) for n in (2, 3)]
    with pytest.raises(StageError, match=r"'y' .*\(2,\), \(3,\)"):
        ShuffleBuffer(parts, {"x": 0})

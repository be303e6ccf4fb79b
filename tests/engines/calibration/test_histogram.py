from __future__ import annotations

import math
import random as randomness
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from attar.engines.calibration import histogram
from attar.engines.calibration.histogram import BINS, Histogram
from attar.pipeline.core.errors import StageError

Floats = npt.NDArray[np.floating[Any]]
numbers = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=30)


def of(*batches: Floats) -> Histogram:
    made = Histogram()
    for batch in batches:
        made.add(batch)
    return made


def test_by_hand() -> None:
    """0 to 2,047 fill 2,048 bins of width 1; 2,048 needs a wider one, so neighbours are merged: 0 and 1, 2 and 3, ..."""
    made = of(np.arange(2048, dtype=np.float32))
    assert (made.width, made.first, made.counts.tolist()) == (1.0, 0, [1] * 2048)
    made.add(np.full((1, 1), 2048, np.float32))
    assert (made.width, made.first, made.low, made.high) == (2.0, 0, 0.0, 2048.0)
    assert made.counts.tolist() == [2] * 1024 + [1] + [0] * 1023


def test_below_zero_by_hand() -> None:
    """-0.1 and 1 lie in bins of 2^-10: 1.1 is 1,126 of them. -0.1 is in that from -103/1024, the first."""
    made = of(np.array([1.0]), np.array([-0.1]))
    assert (made.exponent, made.first) == (-10, -103)
    assert np.flatnonzero(made.counts).tolist() == [0, 1024 + 103]
    assert made.edges[[0, -1]].tolist() == [-103 / 1024, 1945 / 1024]


def test_zeros_first() -> None:
    """A tensor may be 0 in the first batches: its bins are the finest until there is something to tell apart."""
    made = of(np.zeros(5, np.float32), np.array([1e-3], np.float32))
    assert made.exponent == of(np.array([1e-3], np.float32)).exponent
    assert (made.counts[0], made.counts.sum()) == (5, 6)


def test_what_is_never_negative_has_no_bins_below_zero() -> None:
    made = of(np.array([0, 5], np.float32), np.array([0.1], np.float32))
    assert (made.first, made.low) == (0, 0.0)


@example([2197949513728.0, -1.014026024632127e-36], randomness.Random(1))  # too small for float32, in bins of the other
@given(numbers, st.randoms())
def test_order_and_batches_do_not_matter(values: list[float], random: Any) -> None:
    array = np.array(values, np.float32)
    whole, shuffled = of(array), list(values)
    random.shuffle(shuffled)
    parts = np.array_split(np.array(shuffled, np.float32), random.randint(1, len(values)))
    again = of(*(part for part in parts if part.size))
    assert (again.exponent, again.first, again.low, again.high) == (whole.exponent, whole.first, array.min(), array.max())
    np.testing.assert_array_equal(again.counts, whole.counts)


@given(numbers)
def test_every_value_is_in_its_bin(values: list[float]) -> None:
    array = np.array(values, np.float64)
    made = of(array)
    expected = np.bincount(np.searchsorted(made.edges, array, "right") - 1, minlength=BINS)
    np.testing.assert_array_equal(made.counts, expected)


@given(numbers)
def test_bins_are_as_fine_as_the_range_allows(values: list[float]) -> None:
    made = of(np.array(values, np.float32))
    low, high = min(0.0, made.low), max(0.0, made.high)
    assert made.edges[0] <= low
    assert high < made.edges[-1]
    assert made.exponent == histogram.FINEST or (high - low) / made.width > BINS / 2 - 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_values(dtype: type[np.floating[Any]]) -> None:
    limits = np.finfo(dtype)
    made = of(np.zeros(3, dtype), np.array([limits.smallest_subnormal, 0], dtype), np.array([limits.max], dtype))
    assert (made.low, made.high, made.counts.sum()) == (0.0, float(limits.max), 6)
    assert (made.counts[0], made.counts[-1]) == (5, 1)


def test_many_values_at_once() -> None:
    values = np.linspace(-1, 1, 3 * histogram.CHUNK + 1, dtype=np.float32)
    made = of(values.reshape(1, -1))
    np.testing.assert_array_equal(made.counts, np.histogram(values, made.edges)[0])


def test_saved_and_loaded(tmp_path: Path) -> None:
    kept = {"b": of(np.array([1, 2], np.float32)), "a": of(np.array([-1.5], np.float16))}
    histogram.save_histograms(tmp_path / "x.safetensors", kept, 7)
    found, samples = histogram.load_histograms(tmp_path / "x.safetensors")
    assert (list(found), samples) == (["a", "b"], 7)
    for name, each in found.items():
        assert (each.low, each.high, each.exponent) == (kept[name].low, kept[name].high, kept[name].exponent)
        each.add(np.array([math.pi]))
        kept[name].add(np.array([math.pi]))
        np.testing.assert_array_equal(each.counts, kept[name].counts)
    histogram.save_histograms(tmp_path / "none.safetensors", {}, 0)
    assert histogram.load_histograms(tmp_path / "none.safetensors") == ({}, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "none.safetensors"}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    histogram.save_histograms(file, {"a": of(np.array([1.0]))}, 1)
    whole = file.read_bytes()
    for spoilt in (b"", whole[:-1], whole[:30]):
        file.write_bytes(spoilt)
        with pytest.raises(StageError, match=r"x\.safetensors .*delete"):
            histogram.load_histograms(file)
    state = {"state": '{"tensors": ["a"], "samples": 1}'}
    good = {"counts": np.ones((1, BINS), np.int64), "extremes": np.zeros((1, 2))}
    bad: list[dict[str, npt.NDArray[Any]]] = [{"counts": np.zeros((1, BINS), np.int64)}, {"counts": np.ones((1, 3), np.int64)}]
    bad += [{"counts": np.ones((2, BINS), np.int64)}, {"extremes": np.full((1, 2), np.nan)}, {"extremes": np.zeros((1, 3))}]
    for other in bad:
        save_file({**good, **other}, file, state)
        with pytest.raises(StageError, match="damaged"):
            histogram.load_histograms(file)
    save_file(good, file)
    with pytest.raises(StageError, match="damaged"):
        histogram.load_histograms(file)

"""Shards hold what the teacher said: whole, the largest of wide logits, or rows of lengths of their own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.rows import Rows, map_shard
from attar.models.task import Array, Output
from attar.pipeline.core.errors import StageError
from attar.stages.label.shards import Shard, ShardBuilder, list_shards, save_shard, select_largest

LOGITS = Output(("batch", 5))
TOKENS = Output(("batch", "length", 5))
MAPS = Output(("batch", 2, "height", "width"), kind="values")


def stored(folder: Path, output: Output, chunks: list[Array], top: int = 0) -> Rows:
    packed = ShardBuilder("y", output, np.float16, top)
    for chunk in chunks:
        packed.add(chunk)
    save_shard(folder / "shard", [packed])
    return Rows([map_shard(folder / "shard")["y"]])


def random(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def half(array: Array) -> npt.NDArray[np.float32]:
    return array.astype(np.float16).astype(np.float32)


def test_views_are_cut_into_shards_of_8192_rows_and_the_rest_is_clean() -> None:
    todo = list_shards({"train": 8193, "validation": 5, "test": 8192, "transfer": 1}, views=2)
    assert [shard.name.removesuffix(".safetensors") for shard in todo] == [
        "train.0.00000", "train.0.00001", "train.1.00000", "train.1.00001",
        "validation.clean.00000", "test.clean.00000", "transfer.0.00000", "transfer.1.00000",
    ]  # fmt: skip  # a view a line
    assert [shard.dtype for shard in (Shard("train", 0, 0), Shard("test", None, 0))] == [np.float16, np.float32]


def test_chunks_are_read_as_one(tmp_path: Path) -> None:
    one, two = random(4, 5), random(3, 5, seed=1)
    rows = stored(tmp_path, LOGITS, [one, two])
    assert len(rows) == 7
    assert rows[:].tobytes() == half(np.concatenate([one, two])).tobytes()
    assert rows[np.array([6, 0])].tolist() == [half(two)[2].tolist(), half(one)[0].tolist()]


def test_the_largest_by_hand(tmp_path: Path) -> None:
    # e^ln1, e^ln3 and e^ln2 are not kept: their mean is 2
    row = np.array([[math.log(1), 4.0, math.log(3), 6.0, math.log(2)]], np.float32)
    parts = select_largest(row, 2)
    assert sorted(zip(parts["indices"][0].tolist(), parts["values"][0].tolist(), strict=True)) == [(1, 4.0), (3, 6.0)]
    assert parts["indices"].dtype == np.uint8
    assert parts["rest"].tolist() == pytest.approx([math.log(2)])
    rows = stored(tmp_path, LOGITS, [row], top=2)
    assert rows.partial
    rest = float(np.float16(math.log(2)))
    assert rows[:].tolist() == [[rest, 4.0, rest, 6.0, rest]]


@pytest.mark.parametrize(("width", "kind"), [(256, np.uint8), (257, np.uint16), (65_537, np.uint32)])
def test_places_take_the_smallest_integers_that_hold_them(width: int, kind: type) -> None:
    assert select_largest(random(1, width), 3)["indices"].dtype == kind


def test_what_is_not_wider_is_stored_whole(tmp_path: Path) -> None:
    assert not stored(tmp_path, LOGITS, [random(2, 5)], top=5).partial
    assert not stored(tmp_path, Output(("batch", 5), kind="values"), [random(2, 5)], top=2).partial


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    made = np.exp(logits.astype(np.float64))
    return np.asarray(made / made.sum(-1, keepdims=True))


@given(st.integers(1, 50), st.integers(0, 10_000), st.floats(0.1, 8))
def test_at_temperature_1_the_kept_and_the_others_keep_their_mass(top: int, seed: int, scale: float) -> None:
    logits = random(3, 60, seed=seed) * np.float32(scale)
    parts = select_largest(logits, top)
    dense = np.repeat(parts["rest"][..., None], 60, -1).astype(np.float32)
    np.put_along_axis(dense, parts["indices"].astype(np.int64), parts["values"].astype(np.float32), -1)
    kept = dense >= np.sort(logits, -1)[:, [-top]]
    assert (kept.sum(-1) >= top).all()
    where = parts["indices"].astype(np.int64)
    exact, got = (np.take_along_axis(softmax(each), where, -1) for each in (logits, dense))
    np.testing.assert_allclose(got, exact, rtol=1e-5)


def test_rows_of_their_own_lengths(tmp_path: Path) -> None:
    short, long = random(2, 3, 5), random(1, 4, 5, seed=1)
    rows = stored(tmp_path, TOKENS, [short, long])
    both = rows[np.array([2, 1])]
    assert both.shape == (2, 4, 5)
    assert both[0].tobytes() == half(long)[0].tobytes()
    assert both[1, :3].tobytes() == half(short)[1].tobytes()
    assert np.isnan(both[1, 3]).all()
    assert rows[np.array([0])].shape == (1, 3, 5)  # padded to the longest of those asked for


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=4))
def test_maps_of_any_size_come_back(tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int, int]]) -> None:
    chunks = [random(count, 2, height, width, seed=number) for number, (count, height, width) in enumerate(sizes)]
    rows = stored(tmp_path_factory.mktemp("maps"), MAPS, list(chunks))
    expected = [half(row) for chunk in chunks for row in chunk]
    whole = rows[:]
    for number, row in enumerate(expected):
        corner = whole[number][:, : row.shape[1], : row.shape[2]]
        assert corner.tobytes() == row.tobytes()
        assert rows[np.array([number])][0].tobytes() == row.tobytes()
    assert int((~np.isnan(whole)).sum()) == sum(row.size for row in expected)


def test_the_largest_of_rows_of_their_own_lengths(tmp_path: Path) -> None:
    short, long = random(2, 3, 5), random(1, 4, 5, seed=1)
    rows = stored(tmp_path, TOKENS, [short, long], top=2)
    for number, row in enumerate([*short, *long]):
        got = rows[np.array([number])][0]
        assert got.shape == row.shape
        assert (got.argmax(-1) == row.argmax(-1)).all()
        np.testing.assert_allclose(softmax(got).max(-1), softmax(row).max(-1), rtol=5e-3)


def test_rows_of_several_shards(tmp_path: Path) -> None:
    parts = []
    for number, length in enumerate((2, 4)):
        packed = ShardBuilder("y", TOKENS, np.float32)
        packed.add(np.full((3, length, 5), number, np.float32))
        save_shard(tmp_path / str(number), [packed])
        parts.append(map_shard(tmp_path / str(number))["y"])
    rows = Rows(parts)
    assert len(rows) == 6
    got = rows[np.array([4, 0, 5])]
    assert got[:, 0, 0].tolist() == [1, 0, 1]
    assert np.isnan(got[1, 2:]).all()
    assert not np.isnan(got[[0, 2]]).any()


@pytest.mark.parametrize("shape", [(2, 4), (2, 5, 1), (2,)])
def test_an_answer_that_is_not_as_declared(shape: tuple[int, ...]) -> None:
    with pytest.raises(StageError, match=r"'y' .*\('batch', 5\)"):
        ShardBuilder("y", LOGITS, np.float16).add(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [1e9, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("top", [0, 2])
def test_what_float16_cannot_hold(value: float, top: int) -> None:
    logits = np.zeros((2, 5), np.float32)
    logits[1] = value
    with pytest.raises(StageError, match="float16"):
        ShardBuilder("y", LOGITS, np.float16, top).add(logits)

"""Views can be replayed bit for bit, a chunk at a time, in any order; an epoch shows every sample once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models import views
from attar.models.sample_order import BLOCK, find_places, list_blocks, shuffle_samples
from attar.models.task import Array, Arrays, Batch, InMemory, Output, Split, SplitName, Task, Tensor
from attar.pipeline.core.errors import StageError


class Noisy(Task):
    """Each sample is its own number; a view adds noise to it."""

    inputs = {"x": Tensor("float32", ("batch", 2))}
    outputs = {"y": Output(("batch", 1), kind="values")}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return numbered(1300)

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        noise = generator.standard_normal(inputs["x"].shape).astype(np.float32)
        return {"x": np.asarray(inputs["x"], np.float32) + noise}

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


def numbered(count: int) -> InMemory:
    column = np.arange(count, dtype=np.float32)
    return InMemory({"x": np.stack([column, column], 1)}, {"label": np.arange(count)})


TASK, SPLIT = Noisy(), numbered(1300)


@given(seed=st.integers(0, 2**31), view=st.integers(0, 2**21), number=st.integers(0, 2))
def test_a_chunk_is_the_same_every_time_and_no_other(seed: int, view: int, number: int) -> None:
    first = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view)
    views.make_chunk(TASK, SPLIT, 2 - number, seed=seed, view=view)
    again = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view)
    other = views.make_chunk(TASK, SPLIT, number, seed=seed, view=view + 1)
    assert first.inputs["x"].tobytes() == again.inputs["x"].tobytes()
    assert first.inputs["x"].tobytes() != other.inputs["x"].tobytes()


@given(st.integers(1, 1300), st.integers(1, 200), st.integers(0, 1000))
def test_an_epoch_shows_each_sample_once_and_drops_less_than_a_batch(count: int, batch: int, seed: int) -> None:
    split = numbered(count)
    seen = list(views.iterate_epoch(TASK, split, batch, np.random.default_rng(seed), seed=0, view=0))
    indices = np.concatenate([part.indices for part in seen])
    assert len(set(indices.tolist())) == len(indices)
    assert len(indices) == (count if count < batch else count - count % batch)
    assert {len(part.indices) for part in seen} == ({count} if count < batch else {batch})


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_order_of_an_epoch_does_not_change_what_a_sample_looks_like(first: int, second: int) -> None:
    looks = []
    for order in (first, second):
        seen = list(views.iterate_epoch(TASK, SPLIT, 100, np.random.default_rng(order), seed=3, view=5))
        looks.append({int(i): row.tobytes() for part in seen for i, row in zip(part.indices, part.inputs["x"], strict=True)})
    assert all(looks[0][index] == looks[1][index] for index in set(looks[0]) & set(looks[1]))


def test_targets_and_inputs_stay_together() -> None:
    for seen in views.iterate_epoch(TASK, SPLIT, 64, np.random.default_rng(0), seed=0, view=0):
        assert (seen.targets["label"] == seen.indices).all()
        assert np.abs(np.asarray(seen.inputs["x"], np.float32)[:, 0] - seen.indices).max() < 6  # noise of standard deviation 1


def test_batches_do_not_follow_the_order_of_the_split() -> None:
    first = next(iter(views.iterate_epoch(TASK, SPLIT, 128, np.random.default_rng(0), seed=0, view=0)))
    assert len(set((first.indices // views.CHUNK).tolist())) > 1
    assert (np.diff(first.indices) < 0).any()


def in_classes(labels: npt.NDArray[np.int64]) -> InMemory:
    return InMemory({"x": np.zeros((len(labels), 2), np.float32)}, {"label": labels})


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(np.arange(100).repeat(500), id="sorted, 100 classes"),
        pytest.param(np.tile(np.arange(100), 500), id="in turn"),
        pytest.param(np.tile(np.arange(98), 500), id="in turn, as many classes as chunks"),
        pytest.param(np.arange(1000).repeat(130), id="sorted, 1000 classes"),
        pytest.param(np.arange(100).repeat(165), id="sorted, a little more than a pool"),
    ],
)
def test_a_batch_holds_as_many_classes_as_if_all_were_shuffled(labels: npt.NDArray[np.int64]) -> None:
    order = np.random.default_rng(0)
    got = [
        len(np.unique(seen.targets["label"]))
        for seen in views.iterate_epoch(TASK, in_classes(labels), 256, order, seed=0, view=0)
    ]
    shuffled = order.permutation(labels)[: len(got) * 256].reshape(-1, 256)
    expected = [len(np.unique(batch)) for batch in shuffled]
    assert np.mean(got) >= 0.98 * np.mean(expected)


class Counted(InMemory):
    """Counts the samples that were taken."""

    taken = 0

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        Counted.taken += len(indices)
        return super().take(indices)


def test_so_many_samples_are_in_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "taken", 0)
    whole = in_classes(np.zeros(60_000, np.int64))
    split = Counted(whole.inputs, whole.targets)
    given = 0
    for seen in views.iterate_epoch(TASK, split, 256, np.random.default_rng(0), seed=0, view=0):
        assert Counted.taken - given <= views.POOL_CHUNKS * views.CHUNK + 256
        given += len(seen.indices)
    assert Counted.taken == 60_000


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_split_that_grows_keeps_the_chunks_of_whole_blocks(few: int, more: int) -> None:
    before, after = shuffle_samples(few), shuffle_samples(few + more)
    assert np.array_equal(np.sort(after), np.arange(few + more))
    assert np.array_equal(find_places(few)[before], np.arange(few))
    *whole, last = list_blocks(few)
    same = few if last == list_blocks(few + more)[len(whole)] else sum(whole)
    assert np.array_equal(before[:same], after[:same])
    assert same >= few // 2 - BLOCK


def test_clean_is_the_split_in_order() -> None:
    parts = list(views.iterate_clean(TASK, SPLIT))
    assert np.concatenate([part.indices for part in parts]).tolist() == list(range(1300))
    assert np.concatenate([part.inputs["x"] for part in parts]).tobytes() == SPLIT.inputs["x"].tobytes()


@given(samples=st.integers(1, 3 * len(SPLIT)), batch=st.integers(1, 700))
def test_a_spread_covers_the_split_evenly_and_never_twice(samples: int, batch: int) -> None:
    parts = list(views.iterate_spread(TASK, SPLIT, samples, batch))
    indices = np.concatenate([part.indices for part in parts])
    assert len(indices) == min(samples, len(SPLIT))
    assert all(len(part.indices) <= batch for part in parts)
    steps = np.diff([*indices, len(SPLIT)])
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


def unlabelled(count: int) -> InMemory:
    return InMemory({"x": -np.ones((count, 2), np.float32)}, {})


@settings(deadline=None, max_examples=40)  # hundreds of small batches, on a machine that may be busy
@given(st.integers(1, 1300), st.integers(1, 1300), st.integers(5, 200), st.integers(0, 100))
def test_transfer_is_mixed_in_and_labels_come_first(train: int, transfer: int, batch: int, seed: int) -> None:
    order = np.random.default_rng(seed)
    seen = list(views.iterate_epoch(TASK, numbered(train), batch, order, seed=0, view=0, transfer=unlabelled(transfer)))
    indices = np.concatenate([part.indices for part in seen])
    total = train + transfer
    assert len(set(indices.tolist())) == len(indices) == (total if total < batch else total - total % batch)
    for part in seen:
        assert (part.indices[: part.labelled] < train).all()
        assert (part.indices[part.labelled :] >= train).all()
        assert part.targets["label"].tolist() == part.indices[: part.labelled].tolist()


def test_transfer_is_spread_over_an_epoch() -> None:
    seen = list(
        views.iterate_epoch(TASK, numbered(1024), 128, np.random.default_rng(0), seed=0, view=0, transfer=unlabelled(1024))
    )
    assert all(32 < part.labelled < 96 for part in seen)


def test_a_sample_of_transfer_looks_as_it_was_recorded() -> None:
    recorded = views.make_chunk(TASK, unlabelled(600), 1, seed=3, view=2)
    looks = {index: row.tobytes() for index, row in zip(recorded.indices.tolist(), recorded.inputs["x"], strict=True)}
    for seen in views.iterate_epoch(TASK, numbered(100), 50, np.random.default_rng(0), seed=3, view=2, transfer=unlabelled(600)):
        for index, row in zip(seen.indices.tolist(), seen.inputs["x"], strict=True):
            assert looks.get(index - 100, row.tobytes()) == row.tobytes()


def test_inputs_of_other_lengths_are_padded_as_the_task_says() -> None:
    short = views.ViewBatch(np.array([0]), {"x": np.array([[1, 2]]), "mask": np.array([[1.0, 1.0]])}, {"y": np.array([5])})
    long = views.ViewBatch(np.array([1]), {"x": np.array([[3, 4, 5]]), "mask": np.ones((1, 3))}, {"y": np.array([6])})
    both = views.join_batches([short, long], {"x": 9, "mask": 0})
    assert both.inputs["x"].tolist() == [[1, 2, 9], [3, 4, 5]]
    assert both.inputs["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert both.targets["y"].tolist() == [5, 6]


def test_targets_of_other_lengths_are_refused() -> None:
    parts = [views.ViewBatch(np.array([0]), {"x": np.zeros((1, n))}, {"y": np.zeros((1, n))}) for n in (2, 3)]
    with pytest.raises(StageError, match=r"'y' .*\(2,\), \(3,\)"):
        views.join_batches(parts, {"x": 0})

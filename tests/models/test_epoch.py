"""An epoch shows every sample once, whoever reads it, from wherever it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models import views
from attar.models.batches import join_batches
from attar.models.epoch import Epoch, Source
from attar.models.pool import LANES, Share
from attar.models.sample_order import CHUNK
from attar.models.shuffle_buffer import ShuffleBuffer
from attar.models.task import Arrays, Batch, InMemory, Output, Task, Tensor
from attar.pipeline.core.errors import StageError
from tests.support.tasks.noisy import SPLIT, TASK, Noisy, numbered


@settings(deadline=None)  # hundreds of small batches, on a machine that may be busy
@given(st.integers(1, 1300), st.integers(1, 200), st.integers(0, 1000))
def test_an_epoch_shows_each_sample_once_and_drops_less_than_a_batch(count: int, batch: int, seed: int) -> None:
    split = numbered(count)
    seen = list(Epoch(Source(TASK, split), batch, seed).iterate_view(0))
    indices = np.concatenate([part.indices for part in seen])
    assert len(set(indices.tolist())) == len(indices)
    assert len(indices) == (count if count < batch else count - count % batch)
    assert {len(part.indices) for part in seen} == ({count} if count < batch else {batch})


@settings(deadline=None)  # as above
@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_order_of_an_epoch_does_not_change_what_a_sample_looks_like(first: int, second: int) -> None:
    looks = []
    for order in (first, second):
        seen = list(Epoch(Source(TASK, SPLIT, seed=3), 100, order).iterate_view(5))
        looks.append({int(i): row.tobytes() for part in seen for i, row in zip(part.indices, part.inputs["x"], strict=True)})
    assert all(looks[0][index] == looks[1][index] for index in set(looks[0]) & set(looks[1]))


def test_targets_and_inputs_stay_together() -> None:
    for seen in Epoch(Source(TASK, SPLIT), 64, 0).iterate_view(0):
        assert (seen.targets["label"] == seen.indices).all()
        assert np.abs(np.asarray(seen.inputs["x"], np.float32)[:, 0] - seen.indices).max() < 6  # noise of standard deviation 1


def test_batches_do_not_follow_the_order_of_the_split() -> None:
    first = next(iter(Epoch(Source(TASK, SPLIT), 128, 0).iterate_view(0)))
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
    got = [len(np.unique(seen.targets["label"])) for seen in Epoch(Source(TASK, in_classes(labels)), 256, 0).iterate_view(0)]
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
    for seen in Epoch(Source(TASK, split), 256, 0).iterate_view(0):
        assert Counted.taken - given <= LANES * CHUNK + 256
        given += len(seen.indices)
    assert Counted.taken == 60_000


def unlabelled(count: int) -> InMemory:
    return InMemory({"x": -np.ones((count, 2), np.float32)}, {})


@settings(deadline=None, max_examples=40)  # hundreds of small batches, on a machine that may be busy
@given(st.integers(1, 1300), st.integers(1, 1300), st.integers(5, 200), st.integers(0, 100))
def test_transfer_is_mixed_in_and_labels_come_first(train: int, transfer: int, batch: int, seed: int) -> None:
    seen = list(Epoch(Source(TASK, numbered(train), unlabelled(transfer)), batch, seed).iterate_view(0))
    indices = np.concatenate([part.indices for part in seen])
    total = train + transfer
    assert len(set(indices.tolist())) == len(indices) == (total if total < batch else total - total % batch)
    for part in seen:
        assert (part.indices[: part.labelled] < train).all()
        assert (part.indices[part.labelled :] >= train).all()
        assert part.targets["label"].tolist() == part.indices[: part.labelled].tolist()


def test_transfer_is_spread_over_an_epoch() -> None:
    seen = list(Epoch(Source(TASK, numbered(1024), unlabelled(1024)), 128, 0).iterate_view(0))
    assert all(32 < part.labelled < 96 for part in seen)


def test_a_sample_of_transfer_looks_as_it_was_recorded() -> None:
    recorded = views.make_chunk(TASK, unlabelled(600), 1, seed=3, view=2)
    looks = {index: row.tobytes() for index, row in zip(recorded.indices.tolist(), recorded.inputs["x"], strict=True)}
    for seen in Epoch(Source(TASK, numbered(100), unlabelled(600), seed=3), 50, 0).iterate_view(2):
        for index, row in zip(seen.indices.tolist(), seen.inputs["x"], strict=True):
            assert looks.get(index - 100, row.tobytes()) == row.tobytes()


def test_inputs_of_other_lengths_are_padded_as_the_task_says() -> None:
    short = views.ViewBatch(np.array([0]), {"x": np.array([[1, 2]]), "mask": np.array([[1.0, 1.0]])}, {"y": np.array([5])})
    long = views.ViewBatch(np.array([1]), {"x": np.array([[3, 4, 5]]), "mask": np.ones((1, 3))}, {"y": np.array([6])})
    both = join_batches([short, long], {"x": 9, "mask": 0})
    assert both.inputs["x"].tolist() == [[1, 2, 9], [3, 4, 5]]
    assert both.inputs["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert both.targets["y"].tolist() == [5, 6]


def test_targets_of_other_lengths_are_refused() -> None:
    parts = [views.ViewBatch(np.array([0]), {"x": np.zeros((1, n))}, {"y": np.zeros((1, n))}) for n in (2, 3)]
    with pytest.raises(StageError, match=r"'y' .*\(2,\), \(3,\)"):
        join_batches(parts, {"x": 0})


class RepeatedNumbers(Noisy):
    """Sample N is its own number, 1 to 7 times."""

    inputs: ClassVar[dict[str, Tensor]] = {"x": Tensor("float32", ("batch", "length"), pad=-1)}
    ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"batch": (1, 64), "length": (1, 7)}

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        return inputs


def ragged(count: int) -> InMemory:
    numbers = np.arange(count)
    rows = np.where(np.arange(7) <= numbers[:, None] % 7, numbers[:, None], -1)
    return InMemory({"x": rows.astype(np.float32)}, {"label": numbers})


WHOLE = Share()


def read(task: Task, count: int, batch: int, share: Share = WHOLE, skip: int = 0, more: int = 0) -> list[views.ViewBatch]:
    make = ragged if isinstance(task, RepeatedNumbers) else numbered
    source = Source(task, make(count), unlabelled(more) if more else None)
    return list(Epoch(source, batch, (1, 2), share, skip).iterate_view(3))


def describe(part: views.ViewBatch) -> list[tuple[int, bytes]]:
    return sorted(zip(part.indices.tolist(), (row.tobytes() for row in part.inputs["x"]), strict=True))


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(200, 18_000),
    more=st.sampled_from([0, 700, 4700]),
    size=st.integers(3, 12),
    world=st.sampled_from([1, 2, 3, 4, 16]),
)
def test_all_processes_together_read_the_batches_of_one(count: int, more: int, size: int, world: int) -> None:
    batch = size * world
    whole = read(TASK, count, batch, more=more)
    parts = [read(TASK, count, batch, Share(rank, world), more=more) for rank in range(world)]
    assert {len(each) for each in parts} == {len(whole)} == {(count + more) // batch}
    for seen, *own in zip(whole, *parts, strict=True):
        assert {len(part.indices) for part in own} == {size}
        assert sorted(chain.from_iterable(map(describe, own))) == describe(seen)
        assert all(part.targets["label"].tolist() == part.indices[: part.labelled].tolist() for part in own)
        check_label_weights(seen, own)


def check_label_weights(seen: views.ViewBatch, own: list[views.ViewBatch]) -> None:
    """The mean over the parts of their weighed means is the mean over all labels."""
    assert {part.step.labelled for part in [seen, *own] if part.step} == {seen.labelled}
    assert seen.label_weight == 1
    if seen.labelled:
        means = [part.targets["label"].mean() if part.labelled else 0 for part in own]
        weighed = [part.label_weight * mean for part, mean in zip(own, means, strict=True)]
        assert np.mean(weighed) == pytest.approx(seen.targets["label"].mean())


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(200, 20_000),
    more=st.sampled_from([0, 700]),
    batch=st.integers(16, 6000),
    done=st.floats(0, 1),
    length=st.booleans(),
)
def test_an_epoch_goes_on_where_it_was_left(count: int, more: int, batch: int, done: float, length: bool) -> None:
    task = RepeatedNumbers() if length else TASK
    whole = read(task, count, batch, more=more)
    skip = int(done * len(whole))
    rest = read(task, count, batch, skip=skip, more=more)
    assert [describe(part) for part in rest] == [describe(part) for part in whole[skip:]]
    assert [part.label_weight for part in rest] == [part.label_weight for part in whole[skip:]]


def test_samples_that_differ_in_length_are_shared_too() -> None:
    whole, *parts = [read(RepeatedNumbers(), 5000, 64, share, more=900) for share in (Share(), Share(0, 2), Share(1, 2))]
    for seen, *own in zip(whole, *parts, strict=True):
        assert sorted(np.concatenate([part.indices for part in own])) == sorted(seen.indices)
        check_label_weights(seen, own)


class SkewedSequences(RepeatedNumbers):
    """Nine of ten sequences to learn are short, and one is long."""

    outputs: ClassVar[dict[str, Output]] = {"y": Output(("batch", 48), kind="tokens", target="label", size=9)}


def test_every_part_of_a_step_of_sequences_has_a_sample() -> None:
    numbers, places = np.arange(320)[:, None], np.arange(48)
    labels = np.where(places < np.where(numbers % 10, 3, 40), 4, np.where(places == np.where(numbers % 10, 3, 40), 2, 0))
    split = InMemory(ragged(320).inputs, {"label": labels})
    for rank in (0, 1):
        batches = list(Epoch(Source(SkewedSequences(), split), 8, 0, Share(rank, 2), accumulate=2).iterate_view(0))
        assert len(batches) == 40
        assert min(len(part.indices) for part in batches) == 2
        assert all(part.step and part.step.parts == 4 and part.step.indices is not None for part in batches)


class Captions(Noisy):
    """Inputs of one size, and sequences to learn."""

    outputs: ClassVar[dict[str, Output]] = {"y": Output(("batch", 8), kind="tokens", target="label", size=9)}


def test_the_tokens_of_a_step_of_captions_weigh_alike() -> None:
    """Four captions of 1, 2, 3 and 6 tokens. Of a part with 7 of the 12, in two parts, a mean weighs 2 * 7 / 12."""
    lengths = np.array([1, 2, 3, 6])
    labels = np.where(np.arange(8) < lengths[:, None], 4, 0)
    split = InMemory({"x": np.zeros((4, 2), np.float32)}, {"label": labels})
    (whole,) = Epoch(Source(Captions(), split), 4, 0, accumulate=2).iterate_view(0)
    assert whole.step
    assert (whole.step.parts, whole.step.tokens, sorted(whole.step.indices)) == (2, 12, [0, 1, 2, 3])
    assert [whole.weigh_tokens(tokens) for tokens in (7, 5, 12)] == [2 * 7 / 12, 2 * 5 / 12, 2]


def test_a_process_weighs_its_own_captions_by_tokens_and_the_others_by_samples() -> None:
    """Of four processes' samples one process knows its own four, of which two have labels: of 2 and 6 tokens."""
    chunk = views.ViewBatch(np.arange(4), {"x": np.zeros((4, 1))}, {"label": np.array([[4, 4, 0, 0, 0, 0], [4] * 6])})
    held = ShuffleBuffer([chunk], {"x": 0})
    tokens = held.measure_labels(Captions())
    assert tokens is not None
    assert tokens.tolist() == [2, 6, 0, 0]
    step = held.describe_step(np.arange(4), tokens, labelled=12, parts=8, known=0.25)
    parts = [replace(chunk, step=step).take(np.array(rows)) for rows in ([0, 2], [1, 3])]
    assert step.tokens == 8 / 2 * 12
    assert [part.weigh_tokens(own) for part, own in zip(parts, (2, 6), strict=True)] == [8 * 2 / 48, 8 * 6 / 48]
    assert held.describe_step(np.array([2, 3]), tokens, labelled=12, parts=8, known=0.25).tokens == 0


@pytest.mark.parametrize(("world", "chunks"), [(1, 48), (2, 24), (4, 12), (8, 6), (16, 3), (32, 3), (3, 48)])
def test_a_process_prepares_its_own_samples_alone(world: int, chunks: int) -> None:
    """Of three pools of sixteen chunks each."""
    for rank in range(world):
        epoch = Epoch(Source(TASK, numbered(3 * LANES * CHUNK)), 96 * world, 0, Share(rank, world))
        assert len(list(epoch.list_chunks())) == chunks


def test_what_was_read_before_is_not_read_again() -> None:
    source, size = Source(TASK, numbered(5 * LANES * CHUNK)), LANES * CHUNK
    assert len(list(Epoch(source, 128, 0, skip=4 * size // 128).list_chunks())) == LANES
    assert len(list(Epoch(source, 96, 0, skip=4 * size // 96).list_chunks())) == 2 * LANES  # the batch began in the pool before

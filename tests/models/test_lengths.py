"""Lengths: what is padding is told from what is not, batches are trimmed to their longest sample, and nothing is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models import lengths
from attar.models.epoch import Epoch, Source
from attar.models.rows import map_shard
from attar.models.task import Array, Arrays, InMemory, Output, Predictor, Split, SplitName, Task, Tensor
from attar.models.tasks.numbers import Numbers
from attar.pipeline.store.file_cache import FileCache
from attar.stages.label.shard_labeller import ShardLabeller
from attar.stages.label.shards import Shard
from tests.support.tasks.token_task import TokenSentences

LONGEST = 12


class Ragged(Task):
    """Tokens padded with 9, which occurs inside a text too, beside a mask; each sample's first token is its number."""

    inputs: ClassVar[Mapping[str, Tensor]] = {
        "tokens": Tensor("int64", ("batch", "sequence"), high=100_000, pad=9),
        "mask": Tensor("int64", ("batch", "sequence"), high=2),
        "weight": Tensor("float32", ("batch", 1)),
    }
    outputs: ClassVar[Mapping[str, Output]] = {"y": Output(("batch", 1), kind="values", target="y")}
    ranges = {"batch": (1, 64), "sequence": (2, LONGEST)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        return ragged(700)

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


@dataclass
class Teacher:
    """Says the number of each sample, and notes in which shapes it was asked."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        tokens = inputs["tokens"]
        self.shapes.append(tokens.shape)
        positions = tokens if tokens.shape[1] == LONGEST else np.pad(tokens, ((0, 0), (0, LONGEST - tokens.shape[1])))
        return {"y": tokens[:, :1].astype(np.float32), "whole": positions.astype(np.float32)}


class Coded(Ragged):
    """Integers that end in zeros of their own: no padding is declared."""

    inputs: ClassVar[Mapping[str, Tensor]] = {"tokens": Tensor("uint8", ("batch", "sequence"), high=256)}


def test_without_a_declared_padding_nothing_is_cut() -> None:
    pixels = np.array([[5, 0, 0, 0]], np.uint8)
    assert lengths.list_length_axes(Coded()) == ()
    assert lengths.trim_inputs(Coded(), {"tokens": pixels})["tokens"].tolist() == [[5, 0, 0, 0]]


class Positions(Ragged):
    """Answers position by position."""

    outputs: ClassVar[Mapping[str, Output]] = {"y": Output(("batch", "sequence"), kind="values")}


class Image(Ragged):
    """No tokens: what is 0 at the rim of an image is a part of it."""

    inputs: ClassVar[Mapping[str, Tensor]] = {"image": Tensor("float32", ("batch", 1, "height", "width"))}
    ranges = {"batch": (1, 4), "height": (1, 9), "width": (1, 9)}


class TwoLengths(Ragged):
    """Two axes of lengths."""

    inputs: ClassVar[Mapping[str, Tensor]] = {
        "source": Tensor("int64", ("batch", "source"), high=99, pad=0),
        "target": Tensor("int64", ("batch", "target"), high=99, pad=0),
    }
    ranges = {"batch": (1, 4), "source": (1, 9), "target": (0, 9)}


def ragged(count: int, seed: int = 0, *, labels: bool = True) -> InMemory:
    own = np.random.default_rng(seed).integers(1, LONGEST + 1, (count, 1))
    inside = np.arange(LONGEST) < own
    tokens = np.where(inside, np.random.default_rng(seed + 1).integers(9, 12, inside.shape), 9)
    tokens[:, 0] = 1000 + np.arange(count)
    inputs = {"tokens": tokens, "mask": inside.astype(np.int64), "weight": np.ones((count, 1), np.float32)}
    return InMemory(inputs, {"y": np.arange(count, dtype=np.float32)[:, None]} if labels else {})


def test_which_axes_have_lengths() -> None:
    assert lengths.list_length_axes(Ragged()) == ("sequence",)
    assert lengths.list_length_axes(TokenSentences()) == ("sequence",)
    assert lengths.list_length_axes(TwoLengths()) == ("source", "target")
    assert lengths.list_length_axes(Positions()) == lengths.list_length_axes(Image()) == ()


def test_lengths_by_hand() -> None:
    """A mask tells that the 9 at the end of the second text is none of the padding; nothing is shorter than promised."""
    tokens = np.array([[5, 9, 9, 9], [5, 9, 9, 9], [5, 6, 9, 7]])
    mask = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], np.int64)
    inputs = {"tokens": tokens, "mask": mask, "weight": np.zeros((3, 1), np.float32)}
    assert lengths.measure_samples(Ragged(), inputs).tolist() == [[2], [3], [4]]
    made = lengths.trim_inputs(Ragged(), {name: array[:2] for name, array in inputs.items()})
    assert made["tokens"].tolist() == [[5, 9, 9], [5, 9, 9]]
    assert made["mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert made["weight"].shape == (2, 1)


def test_padding_is_masked_whatever_is_promised_and_answered() -> None:
    """The smallest promised size is 2, of which one token of the first text is padding."""
    tokens = np.array([[5, 9, 9, 9], [5, 9, 9, 9], [9, 9, 9, 9]])
    mask = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]], np.int64)
    inputs = {"tokens": tokens, "mask": mask, "weight": np.zeros((3, 1), np.float32)}
    for task in (Ragged(), Positions()):
        assert lengths.mask_padding(task, inputs, "tokens").sum(1).tolist() == [1, 3, 0]
        assert lengths.mask_padding(task, inputs, "tokens")[1].tolist() == [True, True, True, False]


class Kinds(Ragged):
    """Of each token a kind and a number, which do not say whether it is padding."""

    inputs: ClassVar[Mapping[str, Tensor]] = {
        "tokens": Tensor("int64", ("batch", "sequence"), high=100, pad=0),
        "kind": Tensor("int64", ("batch", "sequence"), high=5),
        "number": Tensor("float32", ("batch", "sequence")),
    }


def test_padding_of_a_sample_is_the_same_alone_and_among_others() -> None:
    """Kinds and numbers of the first sample are all 1, as those of a mask could be, and the others' are not."""
    tokens = np.array([[5, 6, 0, 0], [5, 6, 7, 8]])
    kind = np.array([[1, 1, 1, 1], [1, 1, 1, 3]])
    inputs = {"tokens": tokens, "kind": kind, "number": kind.astype(np.float32)}
    alone = {name: array[:1] for name, array in inputs.items()}
    expected = [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert lengths.mask_padding(Kinds(), inputs, "tokens").astype(int).tolist() == expected
    assert lengths.mask_padding(Kinds(), alone, "tokens").astype(int).tolist() == expected[:1]


def test_masks_are_truth_values_and_integers_below_2() -> None:
    axes = ("batch", "sequence")
    assert lengths.is_mask(Tensor("bool", axes))
    assert lengths.is_mask(Tensor("uint8", axes, high=2))
    assert not any(
        map(lengths.is_mask, (Tensor("int64", axes, high=3), Tensor("float32", axes), Tensor("int64", axes, high=None)))
    )


class Positioned(Ragged):
    inputs: ClassVar[Mapping[str, Tensor]] = {
        "tokens": Tensor("int64", ("batch", "sequence"), high=100, pad=0),
        "position_ids": Tensor("int64", ("batch", "sequence"), high=100),
    }


def test_positions_do_not_hide_padding_and_it_may_come_first() -> None:
    tokens = np.array([[5, 6, 7, 0, 0, 0], [0, 0, 5, 6, 0, 7]])
    inputs = {"tokens": tokens, "position_ids": np.arange(6)[None].repeat(2, 0)}
    mask = lengths.mask_padding(Positioned(), inputs, "tokens")
    assert mask.astype(int).tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1]]


def test_two_axes_are_cut_apart() -> None:
    inputs = {"source": np.array([[1, 0, 0], [1, 2, 0]]), "target": np.array([[0, 0], [0, 0]])}
    made = lengths.trim_inputs(TwoLengths(), inputs)
    assert (made["source"].shape, made["target"].shape) == ((2, 2), (2, 0))


def test_like_lengths_stand_together_and_ties_keep_their_order() -> None:
    inputs = {"source": np.array([[1, 0], [1, 2], [3, 0], [4, 5]]), "target": np.array([[7, 7], [7, 0], [7, 0], [7, 0]])}
    groups = lengths.group_by_length(TwoLengths(), inputs, np.array([3, 2, 1, 0]), 2)
    assert [rows.tolist() for rows in groups] == [[2, 0], [3, 1]]


@settings(deadline=None, max_examples=40)  # many small batches, on a machine that may be busy
@given(count=st.integers(1, 900), more=st.integers(0, 600), batch=st.integers(1, 150), seed=st.integers(0, 1000))
def test_an_epoch_shows_every_sample_once_and_whole(count: int, more: int, batch: int, seed: int) -> None:
    task, train, transfer = Ragged(), ragged(count, seed), ragged(more, seed + 5, labels=False) if more else None
    whole = [train, transfer] if transfer else [train]
    tokens = np.concatenate([split.inputs["tokens"] for split in whole])
    masks = np.concatenate([split.inputs["mask"] for split in whole])
    seen = list(Epoch(Source(task, train, transfer), batch, seed).iterate_view(0))
    indices = np.concatenate([part.indices for part in seen])
    total = count + more
    assert len(set(indices.tolist())) == len(indices) == (total if total < batch else total - total % batch)
    for part in seen:
        width = part.inputs["tokens"].shape[1]
        assert part.inputs["mask"].shape == part.inputs["tokens"].shape
        assert (part.inputs["tokens"] == tokens[part.indices][:, :width]).all()
        assert (part.inputs["mask"] == masks[part.indices][:, :width]).all()
        assert not masks[part.indices][:, width:].any()
        assert (tokens[part.indices][:, width:] == 9).all()
        assert width == max(2, int(masks[part.indices].sum(1).max()))
        assert part.targets["y"][:, 0].tolist() == part.indices[: part.labelled].tolist()


@given(st.integers(0, 1000))
def test_an_epoch_is_decided_by_its_order(seed: int) -> None:
    one, two = (list(Epoch(Source(Ragged(), ragged(300)), 32, seed).iterate_view(0)) for _ in range(2))
    assert [part.indices.tolist() for part in one] == [part.indices.tolist() for part in two]
    assert [part.inputs["tokens"].tobytes() for part in one] == [part.inputs["tokens"].tobytes() for part in two]


def test_batches_of_like_length_come_in_no_order_of_length_and_save_padding() -> None:
    widths = [part.inputs["tokens"].shape[1] for part in Epoch(Source(Ragged(), ragged(4000)), 64, 0).iterate_view(0)]
    assert widths != sorted(widths)
    assert len(set(widths)) == LONGEST - 1  # each length from 2 on has batches of its own
    assert np.mean(widths) < 7.2  # the mean length is 6.5, and batches by chance would all have 12


def asked(task: Task, folder: Path) -> tuple[Teacher, Path]:
    teacher = Teacher()
    asking = ShardLabeller(
        task, {"test": ragged(700)}, Predictor({"model": teacher}), FileCache(folder), seed=0, top=0, device="cpu"
    )
    shard = Shard("test", None, 0)
    return teacher, asking.label_shard(shard, asking.iterate_chunks(shard), lambda rows: None)


def test_a_teacher_is_asked_for_like_lengths_together_and_answers_in_order(tmp_path: Path) -> None:
    teacher, file = asked(Ragged(), tmp_path / "one")
    answers = map_shard(file)["y"][np.arange(700)]
    assert answers[:, 0].tolist() == (1000 + np.arange(700)).tolist()
    assert sum(rows for rows, _ in teacher.shapes) == 700
    assert {rows for rows, _ in teacher.shapes[:8]} == {64}
    assert sum(rows * width for rows, width in teacher.shapes) < 0.65 * 700 * LONGEST
    assert asked(Ragged(), tmp_path / "two")[1].read_bytes() == file.read_bytes()


def test_a_teacher_that_answers_position_by_position_is_asked_in_order_with_all_padding(tmp_path: Path) -> None:
    class WholePositions(Positions):
        outputs: ClassVar[Mapping[str, Output]] = {"whole": Output(("batch", "sequence"), kind="values")}

    teacher, _ = asked(WholePositions(), tmp_path)
    assert teacher.shapes == [(rows, LONGEST) for rows in (128, 128, 128, 128, 128, 60)]


def test_samples_of_one_size_are_batched_as_they_were_shuffled() -> None:
    """Byte for byte what a permutation of the pool gives: the order of trainings without lengths never changes."""
    task = Image()
    pixels = np.random.default_rng(0).integers(0, 2, (100, 1, 3, 3)).astype(np.float32)
    split = InMemory({"image": pixels}, {"y": np.zeros((100, 1), np.float32)})
    order = np.random.default_rng(7)
    order.permutation(1), order.random(1)  # of the chunks
    shuffled = order.permutation(100)
    seen = list(Epoch(Source(task, split), 32, 7).iterate_view(0))
    assert [part.indices.tolist() for part in seen] == [shuffled[start : start + 32].tolist() for start in (0, 32, 64)]
    assert all(part.inputs["image"].tobytes() == pixels[part.indices].tobytes() for part in seen)


def test_of_a_sequence_to_learn_the_longer_side_decides_which_samples_go_together() -> None:
    """Lengths of sources 1, 2, 3, 1 and of labels 4, 2, 2, 3: the longer sides are 4, 2, 3, 3."""
    task = Numbers()
    sources = {"digits": np.array([[5, 0, 0], [5, 6, 0], [5, 6, 7], [5, 0, 0]])}
    words = np.array([[4, 4, 4, 2], [4, 2, 0, 0], [4, 2, 0, 0], [4, 4, 2, 0]])
    labels = lengths.measure_labels(task, {"words": words})
    assert labels is not None
    assert labels.tolist() == [4, 2, 2, 3]
    rows = np.arange(4)
    assert [group.tolist() for group in lengths.group_by_length(task, sources, rows, 2, labels)] == [[1, 2], [3, 0]]
    assert lengths.measure_labels(Ragged(), {"y": np.zeros((4, 1))}) is None


def test_batches_of_sequences_to_learn_hold_equally_many_tokens() -> None:
    """Lengths 1 1 1 1 2 2 4: of 12 tokens each of three batches gets four."""
    rows, weights = np.arange(7), np.array([1, 1, 1, 1, 2, 2, 4])
    parts = lengths.split_evenly(rows, weights, 3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4], [5, 6]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.data())
def test_even_parts_hold_every_row_once_and_at_least_a_quarter_of_the_mean(weights: list[int], data: st.DataObject) -> None:
    parts, least = data.draw(st.integers(1, len(weights))), data.draw(st.integers(1, 9))
    rows, mean = np.arange(len(weights)), len(weights) // parts
    split = lengths.split_evenly(rows, np.sort(weights), parts, least)
    assert len(split) == parts
    assert min(map(len, split)) >= max(1, mean // 4, min(least, mean))
    assert np.concatenate(split).tolist() == rows.tolist()

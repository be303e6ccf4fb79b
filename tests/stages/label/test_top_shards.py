"""Distributions along paths come back from shards: ragged or not, of wide and of narrow vocabularies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.generation import Floats, normalize_logits
from attar.models.rows import Rows, join_rows, map_shard
from attar.models.task import Output
from attar.models.top_answers import TopAnswers, describe_logits
from attar.stages.label.shards import ShardBuilder, save_shard

Chunk = tuple[Floats, list[int]]
"""Log-probabilities ``[N, T, size]``, and how many places of each sample are its own."""


def draw_chunk(seed: int, lengths: list[int], size: int) -> Chunk:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (len(lengths), max(1, *lengths), size)).astype(np.float32)
    return normalize_logits(logits), lengths


def store_chunks(folder: Path, chunks: list[Chunk], top: int, dtype: type[np.floating] = np.float32) -> Rows:
    size = chunks[0][0].shape[-1]
    builder = ShardBuilder("y.top", Output(("batch", "tokens", size)), dtype, top)
    for logs, lengths in chunks:
        builder.add(logs, np.array(lengths))
    save_shard(folder / "shard", [builder])
    return Rows([map_shard(folder / "shard")["y.top"]])


def check_sample(top: TopAnswers, row: int, logs: Floats, length: int) -> None:
    """The answers at each place are what is described of the logits; behind the end is nothing."""
    found = top.describe()[row]
    for place in range(length):
        expected = describe_logits(logs[[place]], top.indices[row, [place]])[0]
        np.testing.assert_allclose(found[place], expected, rtol=1e-3, atol=1e-4)
        largest = np.sort(logs[place])[-top.indices.shape[-1] :]
        np.testing.assert_allclose(np.sort(top.values[row, place]), largest)
    assert top.is_known[row].tolist() == [place < length for place in range(found.shape[0])]
    assert np.isnan(found[length:]).all()
    assert np.isnan(top.rest[row, length:]).all()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    counts=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=3),
    top=st.integers(1, 9),
    size=st.sampled_from([4, 6, 300]),
)
def test_what_is_stored_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    counts: list[list[int]],
    top: int,
    size: int,
) -> None:
    chunks = [draw_chunk(seed + number, lengths, size) for number, lengths in enumerate(counts)]
    rows = store_chunks(tmp_path_factory.mktemp("top"), chunks, top)
    samples = [(logs[i], n) for logs, lengths in chunks for i, n in enumerate(lengths)]
    asked = np.random.default_rng(seed).permutation(len(samples))
    found = rows.read_top(asked)
    assert found.size == size
    assert found.values.shape == (len(asked), max(samples[i][1] for i in asked), min(top, size))
    for row, number in enumerate(asked):
        check_sample(found, row, *samples[number])


def test_paths_of_one_length_are_not_ragged(tmp_path: Path) -> None:
    logs, lengths = draw_chunk(0, [3, 3], 9)
    rows = store_chunks(tmp_path, [(logs, lengths)], 2)
    assert "shapes" not in rows.parts[0].tensors
    found = rows.read_top(np.array([1]))
    check_sample(found, 0, logs[1], 3)


def test_a_narrow_vocabulary_has_no_others(tmp_path: Path) -> None:
    logs, lengths = draw_chunk(0, [1, 3], 4)
    rows = store_chunks(tmp_path, [(logs, lengths)], 4)
    found = rows.read_top(np.array([0, 1]))
    assert found.indices[0, 0].tolist() == [0, 1, 2, 3]
    assert found.rest[0, 0] == -np.inf
    assert np.exp(found.values[1, 2]).sum() == pytest.approx(1)


def test_half_precision_keeps_the_shares(tmp_path: Path) -> None:
    logs, lengths = draw_chunk(0, [2, 4], 50)
    found = store_chunks(tmp_path, [(logs, lengths)], 8, np.float16).read_top(np.array([1]))
    shares = np.exp(found.describe()[0, :, :-1])
    assert shares.sum(1).tolist() == pytest.approx([1] * 4, abs=5e-3)
    np.testing.assert_allclose(np.sort(found.values[0, 0]), np.sort(logs[1, 0])[-8:], rtol=1e-3)


def test_a_sample_without_a_token_has_no_answers(tmp_path: Path) -> None:
    logs, _ = draw_chunk(0, [2, 2], 9)
    found = store_chunks(tmp_path, [(logs, [0, 2])], 3).read_top(np.array([0, 1]))
    assert found.is_known.tolist() == [[False, False], [True, True]]


def test_shards_in_another_order_are_read_by_sample(tmp_path: Path) -> None:
    parts = []
    for number, lengths in enumerate(([2, 1], [4, 3], [1, 1])):
        (tmp_path / str(number)).mkdir()
        chunk = draw_chunk(number, lengths, 9)
        parts.append((store_chunks(tmp_path / str(number), [chunk], 3), chunk))
    train = Rows([*parts[0][0].parts, *parts[1][0].parts], np.array([3, 0, 2, 1]))
    joined = join_rows([train, parts[2][0]])
    found = joined.read_top(np.arange(6))
    stored = [(logs[i], n) for _, (logs, lengths) in parts for i, n in enumerate(lengths)]
    for row, place in enumerate([3, 0, 2, 1, 4, 5]):
        check_sample(found, row, *stored[place])

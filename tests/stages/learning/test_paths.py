"""Paths: what a network reads, which of its logits count, and what they are about."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.engines.runtimes.torch import PREFIX
from attar.models.generation import Integers
from attar.models.rows import Rows, ShardOutput
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.label.sequence_labels import read_labels
from attar.stages.learning import paths
from attar.stages.learning.objective import LabelObjective, read_tokens
from tests.support.tasks.sequences import LONGEST, SIZE, WORDS, Reversal, make_decoding

patient = settings(deadline=None, max_examples=40)
DECODING = make_decoding()
LABELS = np.array([[3, 2, 0, 0, 0, 0], [3, 4, 2, 0, 0, 0]])


def make_batch(samples: int = 3) -> ViewBatch:
    source = np.arange(3, 3 + 2 * samples).reshape(samples, 2)
    return ViewBatch(np.arange(samples), {"source": source}, {"words": LABELS[:samples]})


def make_paths(lengths: list[int]) -> Integers:
    """Return paths of these lengths, each with its end token."""
    made = np.zeros((len(lengths), LONGEST), np.int64)
    for row, length in zip(made, lengths, strict=True):
        row[:length] = [*range(3, 2 + length), WORDS.end]
    return made


def test_labels_are_read_without_padding_that_none_needs() -> None:
    found = paths.read_label_path(make_batch(), "words", DECODING)
    assert found.tolist() == [[3, 2, 0], [3, 4, 2]]
    assert found.dtype == np.int64


def test_stored_tokens_are_read_by_sample() -> None:
    rows = Rows([ShardOutput({"": LABELS.astype(np.uint8)}, 0)])
    found = paths.read_answer_path(rows, np.array([1, 0]), DECODING)
    assert found.tolist() == [[3, 4, 2], [3, 2, 0]]
    assert found.dtype == np.int64


def test_a_path_has_at_least_one_place() -> None:
    assert paths.trim_path(np.zeros((2, 6), np.int64), DECODING).shape == (2, 1)


def test_one_path_is_read_behind_the_begin_token() -> None:
    inputs = paths.add_prefixes(make_batch(2).inputs, [np.array([[3, 4, 2], [3, 2, 0]])], DECODING)
    assert inputs[PREFIX].tolist() == [[1, 3, 4], [1, 3, 2]]
    assert inputs["source"].tolist() == [[3, 4], [5, 6]]


def test_two_paths_repeat_the_inputs_of_those_that_have_them() -> None:
    answers, labels = np.array([[3, 2], [4, 2], [5, 2]]), np.array([[3, 4, 2], [3, 2, 0]])
    inputs = paths.add_prefixes(make_batch().inputs, [answers, labels], DECODING)
    assert inputs["source"].tolist() == [[3, 4], [5, 6], [7, 8], [3, 4], [5, 6]]
    assert inputs[PREFIX].tolist() == [[1, 3, 0], [1, 4, 0], [1, 5, 0], [1, 3, 4], [1, 3, 2]]


def test_the_end_token_counts_and_padding_does_not() -> None:
    path = np.array([[3, 2, 0], [3, 4, 5], [0, 0, 0]])
    assert paths.mask_path(path, DECODING).astype(int).tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]


@patient
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4), more=st.integers(0, 2))
def test_logits_are_about_the_tokens_that_follow(lengths: list[int], more: int) -> None:
    path = paths.trim_path(make_paths(lengths), DECODING)
    logits = torch.randn(len(path), path.shape[1] + more, SIZE)
    parts = read_tokens(path, DECODING)
    tokens, chosen = parts["labels", "words"], logits[tuple(parts["label places", "words"])]
    places = [(row, place) for row, length in enumerate(lengths) for place in range(length)]
    assert tokens.tolist() == [path[place] for place in places]
    assert torch.equal(chosen, torch.stack([logits[place] for place in places]))


def test_a_label_beyond_its_source_is_found_in_whichever_batch_it_is() -> None:
    """Two tokens of source allow three tokens at growth (1, 1); that of sample 71 has five."""
    labels = np.array([[3, 4, 2, 0, 0, 0], [3, 4, 3, 4, 2, 0]])
    batch = ViewBatch(np.array([70, 71]), {"source": np.array([[3, 4], [4, 3]])}, {"words": labels})
    with pytest.raises(StageError, match="sample 71 with 5 tokens, at most 3"):
        LabelObjective().read_lesson(Reversal(), batch, 0)
    with pytest.raises(StageError, match="sample 71 with 5 tokens, at most 3"):
        read_labels(Reversal(), DECODING, batch)

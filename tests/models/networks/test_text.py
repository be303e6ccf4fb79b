"""Readers of text: padding changes no answer, both axes are dynamic in the graph, and they are as small as they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.networks import text
from attar.models.networks.text import Reader
from attar.stages.export.stage import Export
from tests.support.tasks import smoke
from tests.support.tasks.ragged_words import convolution, transformer

FACTORIES = ["transformer", "convolution"]


def small(factory: str) -> Reader:
    torch.manual_seed(0)
    made = transformer() if factory == "transformer" else convolution()
    return made.eval()


@pytest.mark.parametrize("factory", FACTORIES)
@settings(deadline=None, max_examples=30)  # the first call loads kernels
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_padding_changes_no_answer(factory: str, sizes: list[int], seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(1, 50, (len(sizes), 12)) * (np.arange(12) < np.array(sizes)[:, None])
    network = small(factory)
    with torch.inference_mode():
        together = network(torch.from_numpy(tokens))
        alone = torch.cat([network(torch.from_numpy(row[None, :size])) for row, size in zip(tokens, sizes, strict=True)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("factory", FACTORIES)
def test_each_token_counts_and_its_place_too(factory: str) -> None:
    network, tokens = small(factory), torch.arange(1, 9)[None]
    with torch.inference_mode():
        answers = [network(tokens), network(tokens.flip(1)), *(network(tokens + 9 * (torch.arange(8) == n)) for n in range(8))]
    assert all(not torch.allclose(answers[0], other, atol=1e-3) for other in answers[1:])


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_text_that_is_all_padding_has_an_answer(factory: str) -> None:
    with torch.inference_mode():
        one, more = (small(factory)(torch.zeros((1, size), dtype=torch.int64)) for size in (1, 7))
    assert one.isfinite().all()
    assert torch.equal(one, more)
    assert one.abs().max() < 10


@pytest.mark.parametrize("factory", FACTORIES)
def test_batch_and_sequence_stay_dynamic_in_the_graph(tmp_path: Path, factory: str) -> None:
    """``Export`` proves the answers at every promised size of both."""
    weights = smoke.weights(
        tmp_path / "weights", f"tests.models.networks.test_text:{factory}", "tests.support.tasks.ragged_words:RaggedWords"
    )
    facts = Export().run(tmp_path, weights=weights)
    assert facts["opset"] == 20
    assert facts["inputs"] == {"text": ["batch", "sequence"]}
    assert facts["difference"] < 1e-5


def test_ten_times_smaller_than_minilm() -> None:
    for made in (text.transformer(), text.convolution()):
        assert sum(parameter.numel() for parameter in made.parameters()) < 22_700_000 / 10

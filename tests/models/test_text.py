"""Readers of text: padding changes no answer, both axes are dynamic in the graph, and they are as small as they should be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.networks import text
from attar.models.networks.text import Reader
from attar.models.task import Array, Arrays, Batch, InMemory, Output, Split, SplitName, Task, Tensor
from attar.stages.export import Export
from tests.support import smoke

FACTORIES = ["transformer", "convolution"]


class AsLongAsItsLongest(InMemory):
    """As a tokenizer gives them: what is taken together is padded to the longest of them."""

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        taken = super().take(indices)
        tokens = taken.inputs["text"]
        return Batch({"text": tokens[:, : int((tokens != 0).sum(1).max())]}, taken.targets)


class Words(Task):
    """Tokens of any length up to 12, padded with 0, and a class; drawn, but the lengths are as ragged as real ones."""

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=50, pad=0)}
    outputs = {"logits": Output(("batch", 5), target="label")}
    ranges = {"batch": (1, 8), "sequence": (1, 12)}

    def data(self) -> list[str]:
        return []

    def split(self, name: SplitName) -> Split:
        generator = np.random.default_rng(len(name))
        tokens = generator.integers(1, 50, (60, 12)) * (np.arange(12) < generator.integers(1, 13, (60, 1)))
        return AsLongAsItsLongest({"text": tokens}, {"label": tokens[:, 0] % 5})

    def score(self, outputs: Mapping[str, Array], targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["logits"]), 1))


def small(factory: str) -> Reader:
    torch.manual_seed(0)
    made = transformer() if factory == "transformer" else convolution()
    return made.eval()


def transformer() -> Reader:
    return text.transformer(width=16, vocabulary=50, length=12, classes=5)


def convolution() -> Reader:
    return text.convolution(width=16, vocabulary=50, classes=5)


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
    weights = smoke.weights(tmp_path / "weights", f"tests.models.test_text:{factory}", "tests.models.test_text:Words")
    facts = Export().run(tmp_path, weights=weights)
    assert facts["opset"] == 20
    assert facts["inputs"] == {"text": ["batch", "sequence"]}
    assert facts["difference"] < 1e-5


def test_ten_times_smaller_than_minilm() -> None:
    for made in (text.transformer(), text.convolution()):
        assert sum(parameter.numel() for parameter in made.parameters()) < 22_700_000 / 10

"""Hugging Face encoder-decoders as networks that generate: Marian and T5, tiny and random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attar.engines.runtimes.torch import check_network, make_graphs
from attar.models.generation import FOLLOW, START, STEP, Vocabulary, follow
from attar.models.networks.generator import Generator
from attar.pipeline.core.errors import StageError
from tests.support.tasks.sequences import LONGEST, SIZE, Reversal, draw_sources, make_decoding
from tests.support.tasks.translators import KINDS, make_configuration, make_generator

pytestmark = pytest.mark.parametrize("kind", KINDS)


def test_the_three_forms_are_one_network(kind: str) -> None:
    """``check_network`` follows random paths by both forms, and looks at padding and first axes."""
    network = make_generator(kind)
    check_network(network, Reversal())
    assert network.vocabulary == Vocabulary(SIZE, begin=1, end=2, pad=0)


def test_it_says_what_transformers_says(kind: str) -> None:
    """Logits along a path are those of the model itself, which reads its own first token."""
    network, decoding = make_generator(kind), make_decoding()
    source, path = draw_sources(3, [5, 2]), draw_sources(4, [LONGEST, LONGEST])
    graphs = make_graphs(network, Reversal())
    steps = np.stack(list(follow({START: graphs[START], STEP: graphs[STEP]}, {"source": source}, path, decoding)), 1)
    whole = np.stack(list(follow({FOLLOW: graphs[FOLLOW]}, {"source": source}, path, decoding)), 1)
    given = torch.from_numpy(np.concatenate([np.zeros((2, 1), np.int64), path[:, :-1]], 1))
    tokens = torch.from_numpy(source)
    with torch.no_grad():
        logits = network.model(input_ids=tokens, attention_mask=(tokens != 0).long(), decoder_input_ids=given).logits.numpy()
    expected = np.where(np.arange(SIZE) < 2, logits.min(2, keepdims=True), logits)  # padding and begin are not said
    for got in (steps, whole):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_a_model_without_an_end_is_refused(kind: str) -> None:
    with pytest.raises(StageError, match="eos_token_id = None"):
        Generator(make_configuration(kind, eos_token_id=None).to_json_string(), 1)


def test_its_own_first_token_is_the_begin_unless_another_is_named(kind: str) -> None:
    assert Generator(make_configuration(kind).to_json_string(), None).begin == 0

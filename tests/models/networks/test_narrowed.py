"""Encoders of BERT's kind with fewer heads than their width is cut into."""

from __future__ import annotations

import pytest
import torch
import transformers

from attar.models.networks.narrowed import classifier, encoder
from attar.pipeline.core.errors import StageError
from tests.support.tasks.bert_task import LONGEST, VOCABULARY_SIZE, make_bert_config

CONFIG = make_bert_config(num_attention_heads=4).to_json_string()


def test_layers_heads_and_hidden_units_are_left_out() -> None:
    shapes = {name: tuple(each.shape) for name, each in classifier(CONFIG, 3, layers=1, heads=3, hidden=10).named_parameters()}
    layer = "model.encoder.layer.0"
    assert shapes[f"{layer}.attention.self.key.weight"] == (24, 32)
    assert shapes[f"{layer}.attention.output.dense.weight"] == (32, 24)
    assert shapes[f"{layer}.intermediate.dense.weight"] == (10, 32)
    assert not any(name.startswith("model.encoder.layer.1") for name in shapes)


def test_by_default_it_is_the_network_of_its_configuration() -> None:
    shapes = [each.shape for each in encoder(CONFIG).parameters()]
    assert shapes == [each.shape for each in encoder(CONFIG, heads=4, layers=2, hidden=64).parameters()]
    tokens = torch.randint(1, VOCABULARY_SIZE, (2, LONGEST))
    assert encoder(CONFIG, heads=1)(tokens).shape == (2, 32)


def test_more_heads_than_there_are_and_other_kinds_of_models_are_refused() -> None:
    with pytest.raises(StageError, match="the configuration has 4; write 1 to 4"):
        classifier(CONFIG, 3, heads=5)
    distilbert = transformers.DistilBertConfig(vocab_size=VOCABULARY_SIZE, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
    with pytest.raises(StageError, match="no attention of BERT's form"):
        classifier(distilbert.to_json_string(), 3, heads=2)

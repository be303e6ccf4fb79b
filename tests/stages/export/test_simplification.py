"""A pass over exported graphs is left out where tokens would be answered otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch_sequences import check_sequence_network
from attar.models.generation import START, follow
from attar.models.networks.translation import Translator
from attar.models.task import Predictor
from attar.stages.artifacts import OnnxModel
from attar.stages.export.stage import Export
from tests.support.stages.training import make_out
from tests.support.tasks import smoke
from tests.support.tasks.sequences import DECODING, OPTIONS, REVERSAL, TASK, draw_sources


class Convolved(Translator):
    """A convolution over the embeddings, of which padding's is 0 as it is beyond the ends."""

    def __init__(self) -> None:
        super().__init__(**OPTIONS, pad=0, dropout=0.0)
        self.near = nn.Conv1d(self.width, self.width, 3, padding=1, bias=False)
        with torch.no_grad():
            self.embedding.weight[self.pad] = 0

    def encode(self, source: Tensor) -> tuple[Tensor, ...]:
        mask, *_ = super().encode(source)
        mixed = self.near(self.embed(source).transpose(1, 2)).transpose(1, 2)
        caches = [layer.cross.make_cache(mixed) for layer in self.decoder]  # type: ignore[union-attr,operator]  # ModuleList hides the layer's class
        return mask, *(tensor for cache in caches for tensor in cache)


def export_convolved(folder: Path) -> OnnxModel:
    weights = smoke.weights(folder / "weights", f"{__name__}:Convolved", REVERSAL)
    out = make_out(folder)
    return smoke.artifact(OnnxModel, out, Export(exporter="torchscript").run(out, weights=weights))


def test_a_network_that_looks_beside_a_token_keeps_its_padding(tmp_path: Path) -> None:
    """Padding holds the row of another token where products skip it."""
    network = smoke.weights(tmp_path, f"{__name__}:Convolved", REVERSAL)
    check_sequence_network(network.load(), TASK, DECODING)
    sources, path = {"source": draw_sources(2, [1, 3, 5])}, np.full((3, 4), 5)

    def say(predict: Predictor) -> list[np.ndarray]:
        return list(follow(predict.graphs, sources, path, DECODING))

    model = export_convolved(tmp_path)
    with network.open(threads=1) as expected, model.open(threads=1) as got:
        np.testing.assert_allclose(say(got), say(expected), atol=1e-4)
    assert ".rows" not in str(onnx.load(model.file(START)).graph.node)

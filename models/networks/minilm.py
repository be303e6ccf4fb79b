"""MiniLM-L6 as a network for further training: it starts with the weights of its package."""

from __future__ import annotations

from torch import nn

from attar.models.networks.huggingface import FreshClassifier
from attar.models.tasks import minilm


def classifier(classes: int = 35) -> nn.Module:
    """Return a network from tokens of MiniLM's vocabulary ``[B, S]`` to logits ``[B, classes]``;
    only the last layer starts random.

    A task for it lists the package's weights in its ``data``, so that they count in the teacher's
    key. Raises StageError if the package or transformers is not installed.
    """
    folder = minilm.find_folder()
    network = FreshClassifier((folder / "config.json").read_text("utf-8"), classes)
    network.fill(folder)
    return network

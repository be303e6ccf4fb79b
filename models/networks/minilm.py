"""MiniLM-L6 as a network to train further: it begins with the weights that its package ships."""

from __future__ import annotations

from torch import nn

from attar.models.networks.huggingface import FreshClassifier
from attar.models.tasks import minilm


def classifier(classes: int = 35) -> nn.Module:
    """Tokens of MiniLM's own vocabulary ``[B, S]`` to logits ``[B, classes]``; the last layer alone
    begins random.

    A task that reads for it lists the package's weights in its ``data``, so that they count in the
    teacher's key. Raises StageError when the package or transformers is not installed.
    """
    folder = minilm.find_folder()
    made = FreshClassifier((folder / "config.json").read_text("utf-8"), classes)
    made.fill(folder)
    return made

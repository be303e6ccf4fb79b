"""The weights of a network in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from attar.pipeline.core.stage import Device, FloatPrecision
from attar.stages.artifacts.model import Model, Opened

if TYPE_CHECKING:
    from torch import nn


class Weights(Model):
    """``weights.safetensors``. The facts name the ``network`` and ``options`` of its module.

    Facts: ``task``, ``network``, ``options``, ``parameters`` (count), ``score`` (on validation),
    ``history`` (a list of ``{"epoch", "loss", "score"}``), ``best_epoch``, ``device``; of an
    average of networks ``member``, the network that each is; of a student also ``correlation``,
    ``kdl``, ``oacc`` (its teacher's score on validation), what its distiller noted, where it
    started warm ``started_from`` (see ``stages.distill.warm_start``), and of losses of features
    ``features``, the kinds that read stored ones and those that ran the teacher (``live``). A
    control that is switched off has ``{"off": true}``.
    """

    marker: ClassVar[str] = "network"
    code: ClassVar[tuple[str, ...]] = ("network", "task", "member")

    def load(self) -> nn.Module:
        """Return the network with its weights, in evaluation mode, on the CPU."""
        from attar.engines.runtimes.torch import load_network

        file = self.root / "weights.safetensors"
        return load_network(file, self.facts["network"], self.facts["options"])

    def open(
        self,
        threads: int | None = None,
        device: Device = "cpu",
        precision: FloatPrecision = "fp32",
        layers: Sequence[str] = (),
    ) -> Opened:
        """Open the network. It answers the features of ``layers``, too (``models.features``)."""
        from attar.engines.runtimes import torch, torch_features

        module, task, how = self.load(), self.facts["task"], (threads, device, precision)
        if layers:
            return torch_features.open_with_layers(module, task, layers, *how)
        return torch.open_network(module, task, *how)

    def find_device(self, device: Device) -> str:
        from attar.engines.runtimes import torch

        return torch.select_device(device).type

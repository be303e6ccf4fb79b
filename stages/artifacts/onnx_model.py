"""Graphs in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from attar.models.generation import MODEL, find_decoding
from attar.pipeline.core.stage import Device
from attar.stages.artifacts.model import Model, Opened


class OnnxModel(Model):
    """``NAME.onnx`` for every name in the fact ``graphs``; ``precision`` says what is baked in.

    An opaque teacher's facts have a ``score`` too, and an empty ``history``. The reference of a
    teacher that only translates has ``{"off": true}``.
    """

    marker: ClassVar[str] = "graphs"

    @property
    def answering_graphs(self) -> list[str]:
        """The graphs that answering needs: of a network that generates the one that loops."""
        return [MODEL] if find_decoding(self.load_task()) else list(self.facts["graphs"])

    @property
    def size(self) -> int:
        names = tuple(f"{graph}.onnx" for graph in self.answering_graphs)
        files = [path for path in self.root.iterdir() if path.name.startswith(names)]
        return sum(file.stat().st_size for file in files)

    def file(self, graph: str = "model") -> Path:
        return self.root / f"{graph}.onnx"

    def open(self, threads: int | None = None, device: Device = "cpu") -> Opened:
        from attar.engines.runtimes import onnxruntime, providers

        files = {name: self.file(name) for name in self.facts["graphs"]}
        provider = providers.DEVICE_PROVIDERS[self.find_device(device)]
        return onnxruntime.open_session(
            files,
            threads,
            provider,
            precision=self.facts["precision"],
            placement=self.facts.get("placement"),
            splits=True,
        )

    def find_device(self, device: Device) -> str:
        from attar.engines.runtimes import providers

        return providers.select_device(device)

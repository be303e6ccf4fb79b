"""Manifest: everything that a bundle says about itself, as validated data in ``manifest.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from attar.models.preprocess import Step


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(Part):
    """A named tensor: a numpy dtype and its axes, a number where fixed and a name where dynamic."""

    dtype: str
    axes: tuple[int | str, ...]


class Output(Tensor):
    kind: Literal["logits", "values"]


class Needs(Part):
    """What the engine needs to run: it was built for one runtime on one machine."""

    runtime: str
    version: str
    provider: str
    threads: int
    precision: str
    machine: Mapping[str, Any]
    """Of the machine that built it; see ``attar.pipeline.machine``."""


class Golden(Part):
    """``golden.safetensors``: ``raw.INPUT``, before preprocessing, and ``teacher.OUTPUT`` and ``engine.OUTPUT`` for it."""

    requests: int
    tolerance: float
    """Largest difference to the recorded answers that a replay may show, relative to the largest magnitude among them (or 1)."""


class Origin(Part):
    """Where an artifact in the bundle came from: its key and digest in the store that made it, and the facts about it."""

    key: str
    digest: str
    facts: Mapping[str, Any] = {}


class Manifest(Part):
    format: Literal["attar bundle 1"] = "attar bundle 1"
    """The version of this schema."""
    name: str
    task: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Output]
    ranges: Mapping[str, tuple[int, int]]
    """For each dynamic axis the smallest and the largest size that was promised to work."""
    preprocess: Mapping[str, Sequence[Step]]
    labels: Sequence[str]
    graphs: Sequence[Annotated[str, Field(pattern=r"^\w+$")]]
    """They name files, so they are words and lead nowhere else."""
    engine: Needs
    golden: Golden
    verdict: Mapping[str, Any]
    """The gates and what became of them, as ``judge`` found them."""
    ledger: Mapping[str, Any]
    """Every hop from the teacher to the engine, as ``measure`` found them."""
    lineage: Mapping[str, Origin]

"""The bundle's own report: what was measured and promised, for whoever receives the bundle without
the run that made it."""

from __future__ import annotations

from collections.abc import Mapping

from attar.pipeline.core.stage import Artifact
from attar.pipeline.run import Record
from attar.proof.report.formats.html import render_html

SHARED = ("onnx",)
"""Slots that all targets share: their names stand alone."""


def render_report(name: str, made: Mapping[str, Artifact]) -> str:
    """``report.html`` of one target's artifacts, by slot. Training curves are in the run's report,
    not here."""
    return render_html([make_record(name, slot, artifact) for slot, artifact in made.items()], name)


def make_record(name: str, slot: str, artifact: Artifact) -> Record:
    place = slot if slot in SHARED else f"{name}.{slot}"
    return Record(
        place,
        slot.capitalize(),
        "reused",
        "packaged",
        artifact.key,
        artifact.root,
        facts=artifact.facts,
        makes=type(artifact),
    )

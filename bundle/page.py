"""The bundle's own report: what was measured and promised, for whoever receives the bundle without
the run that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attar.pipeline.core.stage import Artifact
from attar.pipeline.recipe.pair import SUFFIX
from attar.pipeline.run import Record
from attar.proof.report.formats.html import render_html

SHARED = ("onnx",)
"""Slots that all targets share: their names stand alone."""


def render_report(name: str, made: Sequence[Mapping[str, Artifact]]) -> str:
    """``report.html`` of the artifacts of each engine. Training curves are in the run's report, not
    here."""
    records = [
        make_record(name + suffix, slot, artifact)
        for suffix, artifacts in zip(("", SUFFIX), made, strict=False)
        for slot, artifact in artifacts.items()
        if not (suffix and slot in SHARED)
    ]
    return render_html(records, name)


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

"""Slots: the one table that says what attar does in which order."""

from __future__ import annotations

from attar.pipeline.recipe.slot import Slot
from attar.stages.build import Build
from attar.stages.calibrate import Calibrate
from attar.stages.choose.offers import list_runnable_candidates
from attar.stages.choose.stage import Choose
from attar.stages.choose.take import TakeEngine, TakeModel
from attar.stages.choose.trial import MeasureCandidates
from attar.stages.distill.stage import Control, Distill
from attar.stages.export.stage import Export
from attar.stages.judge import Judge
from attar.stages.label.stage import Label
from attar.stages.measure.stage import Measure
from attar.stages.optimize.stage import Optimize
from attar.stages.package.stage import Package
from attar.stages.teach.stage import Teach
from attar.stages.unpack import Unpack

SLOTS = (
    Slot("teacher", Teach, own_task=True, step="teach"),
    Slot("reference", Export, wires={"weights": "teacher"}, step="export"),
    Slot("answers", Label, like=("teacher",), unlike=("precision",), step="label"),
    Slot("student", Distill, step="distill"),
    Slot("control", Control, like=("answers", "student"), step="distill"),
    Slot("onnx", Export, wires={"weights": "student"}, step="export"),
    Slot("calibration", Calibrate),
    Slot("model", Optimize, scope="candidate", step="optimize"),
    Slot("engine", Build, scope="candidate", step="build"),
    Slot(
        "trials",
        MeasureCandidates,
        wires={"engines": "engine"},
        scope="choice",
        offers=list_runnable_candidates,
    ),
    Slot("choice", Choose, scope="choice", paired=True),
    Slot(
        "model", TakeModel, wires={"models": "model"}, scope="choice", step="optimize", paired=True
    ),
    Slot(
        "engine", TakeEngine, wires={"engines": "engine"}, scope="choice", step="build", paired=True
    ),
    Slot("production", Unpack, scope="target"),
    Slot("evidence", Measure, scope="target", step="validate", paired=True),
    Slot("verdict", Judge, scope="target", step="validate", paired=True),
    Slot(
        "bundle",
        Package,
        wires={
            "single_choice": "single.choice",
            "batch_choice": "batch.choice",
            "batch_model": "batch.model",
            "batch_engine": "batch.engine",
            "batch_evidence": "batch.evidence",
            "batch_verdict": "batch.verdict",
        },
        scope="target",
        step="package",
    ),
)

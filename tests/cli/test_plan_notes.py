"""A plan tells what stored features take, as far as that is known before the teacher is asked."""

from __future__ import annotations

from pathlib import Path

from attar.cli.plan_notes import describe_plan
from attar.pipeline.planner import Plan
from attar.stages.artifacts import Answers
from attar.stages.label.stage import Label
from tests.support.tasks.smoke import DIGITS, artifact


def test_bytes_are_told_when_they_are_known() -> None:
    stage = Label(task=DIGITS, views=3, features=("stages.1", "head.1"))
    run = Plan("answers", "run", "never made")
    told = "features of stages.1, head.1: 2 bytes x width x samples x 3 views"
    assert describe_plan(run, stage) == f"never made; {told}"
    made = artifact(Answers, Path("nowhere"), {"feature_bytes": 345_678})
    assert describe_plan(Plan("answers", "reuse", "nothing changed", made), stage) == "nothing changed; features: 346 kB"


def test_without_features_the_reason_stands_alone() -> None:
    assert describe_plan(Plan("answers", "run", "never made"), Label(task=DIGITS)) == "never made"

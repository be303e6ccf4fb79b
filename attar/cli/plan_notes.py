"""What a plan tells of a slot beside the reason."""

from __future__ import annotations

from typing import Any

from attar.pipeline.core.stage import Stage
from attar.pipeline.planner import Plan
from attar.proof.report.formatting import format_bytes
from attar.stages.label.features import BYTES
from attar.stages.label.stage import Label


def describe_plan(plan: Plan, stage: Stage[Any]) -> str:
    """Return why a slot would be made or reused, and what its stored features take.

    How wide a layer is, and so how many bytes, is known when the teacher has been asked.
    """
    if not isinstance(stage, Label) or not stage.features:
        return plan.reason
    if plan.artifact is not None:
        return f"{plan.reason}; features: {format_bytes(plan.artifact.facts.get('feature_bytes'))}"
    return (
        f"{plan.reason}; features of {', '.join(stage.features)}: {BYTES} bytes x width x samples "
        f"x {stage.views} views"
    )

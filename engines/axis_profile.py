"""The sizes of dynamic axes for which an engine is built and timed."""

from __future__ import annotations

from collections.abc import Mapping

from attar.engines.parity import list_dynamic_axes
from attar.engines.runtimes.runtime import AxisProfile
from attar.models.task import Task
from attar.pipeline.core.errors import StageError, suggest_name


def complete_profile(profile: Mapping[str, AxisProfile], task: Task) -> dict[str, AxisProfile]:
    """Return the profile with an entry for every dynamic axis.

    Raises StageError for an unknown axis, one without sizes in the profile and the task, and sizes
    that the task promises and the profile leaves out.
    """
    ranges = list_dynamic_axes(task)
    for axis, (least, _, most) in profile.items():
        if axis not in ranges:
            raise StageError(
                f"profile: {type(task).__name__} has no dynamic axis {axis!r}; "
                f"{suggest_name(axis, ranges)}"
            )
        low, high = ranges[axis]
        if least > low or most < high:
            raise StageError(
                f"profile: {axis} goes from {least} to {most}, but {type(task).__name__} promises "
                f"{low} to {high}; widen the profile, or promise less in `ranges`"
            )
    usual = choose_usual_sizes(task)
    return {
        axis: profile.get(axis, (low, usual[axis], high)) for axis, (low, high) in ranges.items()
    }


def choose_usual_sizes(task: Task) -> dict[str, int]:
    """Return the sizes of one sample, as large as it may be."""
    return {
        axis: low if axis == "batch" else high
        for axis, (low, high) in list_dynamic_axes(task).items()
    }

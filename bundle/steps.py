"""Steps: preprocessing that leaves home. What a step reads travels along, under a path from the
folder that both are in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attar.models.preprocess import FileStep, Step
from attar.models.preprocess.known import Steps, validate_steps

FOLDER = "preprocess"


def ship_steps(steps: Mapping[str, Sequence[Step]], root: Path) -> Steps:
    """Copies each step's file to ``preprocess/INPUT.KIND`` below ``root``; the same steps with
    these paths."""
    return validate_steps(
        {name: [ship_step(name, step, root) for step in todo] for name, todo in steps.items()}
    )


def ship_step(name: str, step: Step, root: Path) -> Step:
    if not isinstance(step, FileStep):
        return step
    word = re.sub(r"[^\w.-]", "_", name)
    file = Path(FOLDER) / f"{word}.{step.kind}"
    (root / FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(step.file, root / file)
    return step.model_copy(update={"file": file})


def locate_steps(steps: Mapping[str, Sequence[Step]], root: Path) -> Steps:
    """These steps, finding their files below ``root`` from any working directory. Raises ValueError
    if one lies ``outside``."""
    if wrong := find_outside(step for todo in steps.values() for step in todo):
        raise ValueError(wrong)
    return validate_steps(
        {
            name: [locate_step(step, root.absolute()) for step in todo]
            for name, todo in steps.items()
        }
    )


def locate_step(step: Step, root: Path) -> Step:
    return (
        step.model_copy(update={"file": root / step.file}) if isinstance(step, FileStep) else step
    )


def find_outside(steps: Iterable[Step]) -> str | None:
    """What is wrong with a path that does not lie in ``preprocess/``, where the checksums see it;
    None if all do."""
    for step in steps:
        if isinstance(step, FileStep) and (
            step.file.parts != (FOLDER, step.file.name) or step.file.name == ".."
        ):
            return f"a step reads {step.file}, which is not in the bundle's own {FOLDER}/"
    return None

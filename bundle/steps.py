"""Steps on inputs and outputs, as a bundle holds them: what a step reads travels along, under a
path from the folder that both are in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from attar.models.postprocess.known import OutputSteps, validate_output_steps
from attar.models.preprocess import FileStep, Step
from attar.models.preprocess.known import Steps, validate_steps

FOLDER, OUTPUT_FOLDER = "preprocess", "postprocess"
"""Where the files of the steps on inputs and on outputs lie."""
AnyStep = TypeVar("AnyStep", bound=Step)
AnySteps: TypeAlias = Mapping[str, Sequence[Step]]


def ship_steps(steps: AnySteps, root: Path) -> Steps:
    """Copy each step's file to ``preprocess/INPUT.KIND`` below ``root``. Return the same steps with
    these paths."""
    return validate_steps(copy_files(steps, root, FOLDER))


def ship_output_steps(steps: AnySteps, root: Path) -> OutputSteps:
    """Do as ``ship_steps`` does, with ``postprocess/OUTPUT.KIND``."""
    return validate_output_steps(copy_files(steps, root, OUTPUT_FOLDER))


def copy_files(steps: AnySteps, root: Path, folder: str) -> dict[str, list[Step]]:
    return {
        name: [copy_file(name, step, root, folder) for step in todo] for name, todo in steps.items()
    }


def copy_file(name: str, step: Step, root: Path, folder: str) -> Step:
    if not isinstance(step, FileStep):
        return step
    word = re.sub(r"[^\w.-]", "_", name)
    file = Path(folder) / f"{word}.{step.kind}"
    (root / folder).mkdir(exist_ok=True)
    shutil.copyfile(step.file, root / file)
    return step.model_copy(update={"file": file})


def locate_steps(steps: AnySteps, root: Path) -> Steps:
    """Return these steps, which find their files below ``root`` from any working directory.

    Raises ValueError if one lies elsewhere than in ``preprocess/``.
    """
    return validate_steps(locate_files(steps, root, FOLDER))


def locate_output_steps(steps: AnySteps, root: Path) -> OutputSteps:
    """Do as ``locate_steps`` does, for steps whose files lie in ``postprocess/``."""
    return validate_output_steps(locate_files(steps, root, OUTPUT_FOLDER))


def locate_files(steps: AnySteps, root: Path, folder: str) -> dict[str, list[Step]]:
    if wrong := find_outside((step for todo in steps.values() for step in todo), folder):
        raise ValueError(wrong)
    return {
        name: [locate_step(step, root.absolute()) for step in todo] for name, todo in steps.items()
    }


def locate_step(step: Step, root: Path) -> Step:
    return (
        step.model_copy(update={"file": root / step.file}) if isinstance(step, FileStep) else step
    )


def hold_files(steps: Mapping[str, Sequence[AnyStep]]) -> dict[str, list[AnyStep]]:
    """Return these steps, which keep what their files hold now."""
    return {
        name: [step.hold_file() if isinstance(step, FileStep) else step for step in todo]
        for name, todo in steps.items()
    }


def find_outside(steps: Iterable[Step], folder: str = FOLDER) -> str | None:
    """Return what is wrong with a path that does not lie in ``folder``, where the checksums see it;
    None if all do."""
    for step in steps:
        if isinstance(step, FileStep) and (
            step.file.parts != (folder, step.file.name) or step.file.name == ".."
        ):
            return f"a step reads {step.file}, which is not in the bundle's own {folder}/"
    return None

"""What a stored teacher costs: distilling a student against the plain training of the same student,
in the same run."""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.stage import Control, Distill
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach

BUDGET = 1.05
PAIRS = 5
TASK = "attar.models.tasks.fashion:FashionMnist"
RESIDUAL = "attar.models.networks.residual:residual"
STUDENT: dict[str, Any] = {
    "task": TASK,
    "network": RESIDUAL,
    "options": {"width": 12, "stem": 2},
    "epochs": 1,
}
"""The demo's student. An epoch of 55,000 images, so that what is paid once a training does not
count."""


UNASKED = Weights(key="", digest="", root=Path("nowhere"), facts={})
"""The stored answers are read in its place."""


def make_folder(folder: Path, name: str) -> Path:
    out = folder / name / "out"
    out.mkdir(parents=True)
    return out


def make_answers(folder: Path) -> Answers:
    """Return the answers of a small teacher of one epoch: what it says costs the student the same
    as what a good one says."""
    taught, out = make_folder(folder, "teacher"), make_folder(folder, "answers")
    facts = Teach(**STUDENT | {"epochs": 1}).run(taught)
    found = Label(task=TASK, views=1).run(
        out, teacher=Weights(key="", digest="", root=taught, facts=facts)
    )
    return Answers(key="", digest="", root=out, facts=found)


def main() -> None:
    print(
        f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{PAIRS} pairs of trainings"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        answers = make_answers(folder)
        stages: dict[str, Control | Distill] = {
            "control": Control(**STUDENT, enabled=True, recorded=True, views=1),
            "student": Distill(**STUDENT),
        }
        ratios = [
            compare_trainings(stages, answers, folder / str(number)) for number in range(PAIRS)
        ]
    ratio = statistics.median(ratios)
    print(
        f"distilling takes {ratio:.3f} times the plain training (median; {min(ratios):.3f} to "
        f"{max(ratios):.3f}) of {BUDGET}"
    )
    assert ratio <= BUDGET, "over budget"


def compare_trainings(
    stages: dict[str, Control | Distill], answers: Answers, folder: Path
) -> float:
    """Return the CPU seconds of the student over those of the control, one right after the
    other."""
    took = {}
    for name, stage in stages.items():
        start = time.process_time()
        run_stage(stage, answers, make_folder(folder, name))
        took[name] = time.process_time() - start
    return took["student"] / took["control"]


def run_stage(stage: Control | Distill, answers: Answers, out: Path) -> Facts:
    return (
        stage.run(out, teacher=UNASKED, answers=answers)
        if isinstance(stage, Distill)
        else stage.run(out)
    )


if __name__ == "__main__":
    main()

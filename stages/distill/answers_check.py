"""Whether stored answers belong to the samples and outputs of a task."""

from __future__ import annotations

from collections.abc import Mapping

from attar.models.checks import agreement
from attar.models.task import SplitName, Task, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Facts


def check_answers(facts: Facts, task: Task) -> None:
    """Raises StageError unless answers with these facts are for the task.

    A task whose splits changed under the same name would pair samples with the wrong answers.
    """
    learned: tuple[SplitName, ...] = ("train", "transfer")
    splits = learned if task.transfer else learned[:1]
    samples = {name: len(task.split(name)) for name in splits}
    answered = facts["samples"]
    known = {name: answered[name] for name in learned if name in answered}
    if known != samples or facts["outputs"] != list(task.outputs):
        raise StageError(
            f"the answers are for {format_counts(known)} and {facts['outputs']}, "
            f"the task has {format_counts(samples)} and {list(task.outputs)}; label again"
        )
    agreement.check_agreement(task, load_task(facts["task"]))


def format_counts(samples: Mapping[SplitName, int]) -> str:
    """Return, say, ``100 samples of train and 20 samples of transfer``."""
    return " and ".join(f"{count} samples of {split}" for split, count in samples.items())

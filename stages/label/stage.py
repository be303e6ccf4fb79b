"""Label: the teacher answers once, in every view that a student will see; from then on it costs nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from errno import EMLINK, ENOTSUP, EPERM, EXDEV
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from attar.models.checks import agreement
from attar.models.checks import task as task_check
from attar.models.task import Predictor, SplitName, Task, load_task
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.file_cache import intact, kept
from attar.pipeline.core.progress import advance
from attar.pipeline.core.stage import CodeName, Device, Facts, Stage, scratch
from attar.pipeline.keys import data
from attar.pipeline.keys import deciders as keys
from attar.stages.artifacts import Answers, Model, Weights
from attar.stages.label.asking import Asking
from attar.stages.label.shards import Shard, shards

NO_LINKS = (EXDEV, EPERM, ENOTSUP, EMLINK)
"""What a file system says that has no hard links, or not so many."""


class Label(Stage[Answers]):
    """Stores the teacher's outputs: for train and transfer in ``views`` recorded augmentations (float16), else float32.

    Shards are kept for later runs of the same teacher: more views or samples ask it for those alone. An interruption costs
    one shard. Several processes share the shards among them, which are the same bytes whoever makes them.
    """

    distributed: ClassVar[bool] = True
    incremental: ClassVar[tuple[str, ...]] = ("views", "view_seed", "top", "data")

    task: CodeName
    """What the teacher reads: its section's own ``task``, where it has one."""
    views: int = Field(4, ge=1)
    """Augmentations of every training sample that the teacher answers; each epoch reads one."""
    view_seed: int = Field(0, ge=0)
    """Of the augmentations; a seed of its own, so that another seed for training leaves the answers as they are."""
    top: int = Field(0, ge=0)
    """Keep so many of a view's largest logits, where there are more, and the common share of the others; 0: keep all."""
    device: Device = "auto"

    def run(self, out: Path, *, teacher: Model) -> Facts:
        task = load_task(self.task)
        task_check.check(task)
        splits = {name: task.split(name) for name in task_check.splits_of(task)}
        samples = {name: len(split) for name, split in splits.items()}
        todo, work, folder, member = shards(samples, self.views), scratch(out), kept(out), team.current()
        check_reads(task, teacher)
        opened, device = self.opened(teacher)
        with opened as predict:
            asking = Asking(task, splits, predict, folder, self.view_seed, self.top, device, read_by(task))
            progress = LabelProgress(todo, samples, work)
            for shard in missing(todo[member.rank :: member.world], work, folder.folder):
                progress.begin(shard)
                (work / shard.name).write_text(asking.answered(shard, progress.add).name, encoding="utf-8")
        member.barrier()
        if member.leads:
            assemble(todo, work, folder.folder, out)
        return {
            "task": self.task,
            "views": self.views,
            "seed": self.view_seed,
            "samples": samples,
            "outputs": list(task.outputs),
            "device": device,
        }

    def opened(self, teacher: Model) -> tuple[AbstractContextManager[Predictor], str]:
        """The teacher, and the device that it answers on: a graph does so on the CPU."""
        if not isinstance(teacher, Weights):
            return teacher.open(), "cpu"
        from attar.engines.runtimes.torch import select_device

        return teacher.open(device=self.device), select_device(self.device).type


class LabelProgress:
    """Tells how many samples are answered: of the shards that any process has finished, and of the one that is being made."""

    def __init__(self, todo: Sequence[Shard], samples: Mapping[SplitName, int], work: Path) -> None:
        self.rows = {shard.name: shard.count_rows(samples[shard.split]) for shard in todo}
        self.total, self.work = sum(self.rows.values()), work
        self.done, self.title = 0, ""

    def begin(self, shard: Shard) -> None:
        finished = {path.name for path in self.work.iterdir()} - {shard.name}  # its own is damaged, or it would not be made
        self.done, self.title = sum(self.rows[name] for name in finished), shard.title
        self.add(0)

    def add(self, rows: int) -> None:
        self.done += rows
        advance("answers", self.done, self.total, self.title)


def check_reads(task: Task, teacher: Model) -> None:
    """Raises StageError for a teacher that was made for other inputs, as one that is kept by its key may be."""
    if not agreement.same_inputs(task, teacher.reads()):
        raise StageError(
            f"the teacher reads the inputs of {teacher.facts['task']}, and is asked those of {type(task).__name__}; "
            f"write task = {teacher.facts['task']!r} in [teacher]"
        )


def read_by(task: Task) -> str:
    """Digest of the task's data where it answers in its own way, which may look at them; nothing where it does not."""
    return "" if type(task).answer is Task.answer else keys.digest(data.describe_content(data.inspect_data(task.data())))


def missing(todo: Sequence[Shard], work: Path, folder: Path) -> list[Shard]:
    """Those without a note in ``work`` that names an intact file in ``folder``."""
    return [
        shard
        for shard in todo
        if not ((note := work / shard.name).exists() and intact(folder / note.read_text(encoding="utf-8")))
    ]


def assemble(todo: Sequence[Shard], work: Path, folder: Path, out: Path) -> None:
    for shard in todo:
        link(folder / (work / shard.name).read_text(encoding="utf-8"), out / shard.name)


def link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(source, target)

"""Label: the teacher answers once, in every view that a student will see; from then on it costs nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from attar.models import task_check, views
from attar.models.task import Array, Predictor, SplitName, Task, load_task
from attar.pipeline.errors import StageError
from attar.pipeline.progress import advance
from attar.pipeline.stage import CodeName, Device, Facts, Stage, scratch
from attar.stages.artifacts import Answers, Weights

Memory = np.memmap[Any, Any]
CLEAN: tuple[SplitName, ...] = ("validation", "test")


class Label(Stage[Answers]):
    """Stores the teacher's outputs: for train in ``views`` recorded augmentations (float16), else not augmented (float32).

    Each (split, view) is complete in the scratch folder before the next begins, so that an interruption costs one at most.
    """

    task: CodeName
    views: int = Field(4, ge=1)
    view_seed: int = Field(0, ge=0)
    """Of the augmentations; a seed of its own, so that another seed for training leaves the answers as they are."""
    device: Device = "auto"

    def run(self, out: Path, *, teacher: Weights) -> Facts:
        task = load_task(self.task)
        task_check.check(task)
        work = scratch(out)
        todo: list[tuple[SplitName, int | None]] = [("train", view) for view in range(self.views)]
        todo += [(name, None) for name in CLEAN]
        from attar.stages.runtimes.torch import device_of

        with teacher.open(device=self.device) as predict:
            for number, (name, view) in enumerate(todo):
                self.answer(task, predict, work, name, view)
                advance("answers", number + 1, len(todo), f"{name} {'clean' if view is None else f'view {view}'}")
        for name, view in todo:
            for output in task.outputs:
                (work / file(name, view, output)).replace(out / file(name, view, output))
        samples = {name: len(task.split(name)) for name in task_check.SPLITS}
        return {
            "views": self.views,
            "seed": self.view_seed,
            "samples": samples,
            "outputs": list(task.outputs),
            "device": device_of(self.device).type,
        }

    def answer(self, task: Task, predict: Predictor, work: Path, name: SplitName, view: int | None) -> None:
        """One file for each output; nothing where they are all there."""
        if all((work / file(name, view, output)).exists() for output in task.outputs):
            return
        split, made = task.split(name), dict[str, Memory]()
        for number in range(views.chunks(split)):
            seen = views.chunk(task, split, number, seed=self.view_seed, view=view)
            for output, answer in task.answer(predict.graphs, seen.inputs).items():
                if output not in made:
                    made[output] = create(work / f"{output}.partial", (len(split), *answer.shape[1:]), view)
                made[output][seen.indices] = narrowed(output, answer, made[output])
        for output, memory in made.items():
            memory.flush()
            (work / f"{output}.partial").replace(work / file(name, view, output))


def create(path: Path, shape: tuple[int, ...], view: int | None) -> Memory:
    """A new memory-mapped file with its blocks allocated: a full disk raises OSError here, and a write would kill the process."""
    made = np.lib.format.open_memmap(path, "w+", np.float32 if view is None else np.float16, shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return made


def narrowed(output: str, answer: Array, memory: Memory) -> Array:
    """The answer in the dtype of its file. Raises StageError for what does not survive that."""
    if answer.shape[1:] != memory.shape[1:]:
        shapes = f"{answer.shape[1:]} after rows of {memory.shape[1:]}"
        raise StageError(f"the teacher's {output!r} has rows of {shapes}; pad all samples to one length")
    largest = float(np.abs(answer).max(initial=0))
    if not largest <= float(np.finfo(memory.dtype).max):  # NaN fails too
        raise StageError(f"the teacher's {output!r} reaches {largest}, more than {memory.dtype} holds; scale it, or teach again")
    return answer.astype(memory.dtype)


def file(name: SplitName, view: int | None, output: str) -> str:
    """As ``Answers.of`` reads it."""
    return f"{name}.{'clean' if view is None else view}.{output}.npy"

"""Near-duplicates: how many the shipped tasks have, which planted ones are found, and what looking
for them costs.

``python -m benchmarks.leak [digits] [fashion] [topics] [million]`` takes minutes on one core.
Planted are 200 test samples that stand behind the training samples, changed a little. CPU seconds
and memory are of one search in this process.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from attar.models.preprocess import Scale
from attar.models.task import (
    Array,
    Arrays,
    InMemory,
    Output,
    Split,
    SplitName,
    Task,
    Tensor,
    load_task,
)
from attar.pipeline.keys import machine
from attar.proof.checks.leak import find_near_duplicates
from attar.proof.comparison.timing import read_resident_bytes

TASKS = {
    "digits": "attar.models.tasks.digits:Digits",
    "fashion": "attar.models.tasks.fashion:FashionMnist",
    "topics": "attar.models.tasks.topics:Topics",
    "million": "benchmarks.leak:Million",
}
PLANTED = 200
Images = npt.NDArray[np.float64]
Change = Callable[[Images, np.random.Generator], Images]


class Million(Task):
    """A million training samples of 64 bytes, 10,000 to test with: clouds around 1,000 centres."""

    inputs = {"x": Tensor("float32", ("batch", 64))}
    outputs = {"y": Output(("batch", 1), kind="values")}
    preprocess = {"x": [Scale(by=1 / 255)]}

    def data(self) -> list[str]:
        return ["a million"]

    def split(self, name: SplitName) -> Split:
        count = 1_000_000 if name == "train" else 10_000
        centres = np.random.default_rng(0).integers(40, 216, (1_000, 64), np.uint8)
        generator = np.random.default_rng(len(name))
        x = centres[generator.integers(0, 1_000, count)]
        x += generator.integers(0, 40, x.shape, np.uint8)
        return InMemory({"x": x}, {})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["y"]), 1))


def invert_pixel(images: Images, generator: np.random.Generator) -> Images:
    made = images.reshape(len(images), -1).copy()
    places = np.arange(len(made)), generator.integers(0, made.shape[1], len(made))
    made[places] = np.where(made[places] > images.max() / 2, 0, images.max())
    return made.reshape(images.shape)


def make_noise(share: float) -> Change:
    return lambda images, generator: (
        images + generator.normal(0, share * images.max(), images.shape)
    )


CHANGES: Mapping[str, Change] = {
    "nothing": lambda images, generator: images,
    "one pixel inverted": invert_pixel,
    "noise of 1 %": make_noise(0.01),
    "noise of 2 %": make_noise(0.02),
    "noise of 5 %": make_noise(0.05),
    "5 % brighter": lambda images, generator: images * 1.05,
    "moved by a pixel": lambda images, generator: np.roll(images, 1, -1),
    "mirrored": lambda images, generator: images[..., ::-1],
}


def plant_samples(task: Task, change: Change) -> Task:
    """Return the same task with changed test samples behind those to train on."""

    class Planted(type(task)):  # type: ignore[misc]  # of whatever class it is
        def split(self, name: SplitName) -> Split:
            split: Split = super().split(name)
            if name != "train":
                return split
            return append_samples(split, super().split("test"), change)

    made: Task = Planted()
    return made


def append_samples(split: Split, test: Split, change: Change) -> InMemory:
    batch, leaked = (
        split.take(np.arange(len(split))),
        test.take(np.arange(PLANTED) * len(test) // PLANTED),
    )
    images = np.asarray(leaked.inputs["image"], np.float64)
    changed = (
        change(images, np.random.default_rng(0))
        .round()
        .clip(0, images.max())
        .astype(batch.inputs["image"].dtype)
    )
    targets: dict[str, Array] = {
        name: np.concatenate([each, leaked.targets[name]]) for name, each in batch.targets.items()
    }
    return InMemory({"image": np.concatenate([batch.inputs["image"], changed])}, targets)


def search_task(name: str) -> str:
    task = load_task(TASKS[name])
    for split in ("train", "test"):
        task.split(split)  # what is read into memory once is not the search's
    before, started = read_resident_bytes() or 0, time.process_time()
    found = find_near_duplicates(task)
    seconds, grown = time.process_time() - started, ((read_resident_bytes() or 0) - before) / 2**20
    cost = f"{seconds:.1f} s | {grown:.0f} MiB"
    limits = " and ".join(f"{limit:g}" for limit in (found.limits or {}).values())
    samples = f"{len(task.split('train')):,} | {found.looked_at:,}"
    return f"| {name} | {samples} | {found.count} | {found.share:.4f} | {limits} | {cost} |"


def main(names: list[str]) -> None:
    cpu = machine.describe_machine()["cpu"]
    print(
        f"{cpu}, {platform.python_version()}, numpy {np.__version__}, "
        f"{datetime.now(UTC):%d %B %Y}\n"
    )
    print(
        "| task | training samples | test samples looked at | found | share | limits | CPU | "
        "memory left |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        print(search_task(name), flush=True)
    images = [name for name in names if name in ("digits", "fashion")]
    print(f"\n| found of {PLANTED} planted, changed by | {' | '.join(images)} |")
    print(f"| --- |{' --- |' * len(images)}")
    natural = {name: find_near_duplicates(load_task(TASKS[name])).count for name in images}
    for what, change in CHANGES.items():
        found = {
            name: find_near_duplicates(plant_samples(load_task(TASKS[name]), change)).count
            for name in images
        }
        print(
            f"| {what} | {' | '.join(str(found[name] - natural[name]) for name in images)} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or list(TASKS))

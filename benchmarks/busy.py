"""How busy a GPU could be that trains a ResNet-18 on JPEGs of 224 pixels: an estimate from what the
host was measured to take, here. No GPU was asked.

Three things happen beside each other, and the slowest sets the pace of a step of ``BATCH`` images:
the GPU computes it, the workers prepare the next ones, and the training's process joins batches and
starts kernels. Busy is the GPU's own part of the time that a step takes. How many images a second
the GPU would learn by itself is assumed, and ``make gpu`` measures it.
"""

from __future__ import annotations

import argparse
import math
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from attar.engines.host_memory import keep_freed_memory
from attar.engines.runtimes.torch import build_network
from attar.models.epoch import Epoch, Source
from attar.models.splits.cache import find_cache_folder
from attar.models.task import Tensor
from attar.models.views import ViewBatch
from attar.pipeline.keys import machine
from attar.stages.learning.compute import open_compute
from attar.stages.learning.loop import FreshViews
from attar.stages.learning.objective import LabelObjective
from attar.stages.learning.training import Training
from attar.stages.loading import ChunkRequest, open_loader
from attar.stages.teach.stage import Teach
from benchmarks import _gpu_task
from benchmarks._drawings import Drawings, make_pictures
from benchmarks.measuring import count_cpu_seconds

BATCH = 256
PICTURES = 2048
RATES, WORKERS = (2_000, 4_000, 8_000), (4, 8, 16, 32)
GOAL = 0.8
TINY = 8
"""Pixels a side of the images for which steps are timed: their arithmetic takes next to nothing."""
DEEP = {"width": 8, "blocks": 3, "channels": 3}
"""21 convolutions, each with a norm, as many as a ResNet-18 has and one more."""


@dataclass(frozen=True)
class HostCosts:
    """Seconds of one core."""

    prepare: float
    """To read, decode, move and mirror an image, left as the bytes that a GPU scales."""
    join: float
    """To take an image from a worker and put it into its batch, in the training's process."""
    step: float
    """To start a step, in the training's process: more than on a GPU, since it is computed, too."""

    def estimate_busy(self, rate: float, workers: int) -> float:
        """Return the share of the time in which a GPU computes that learns ``rate`` images a second
        by itself."""
        own = BATCH / rate
        host = max(BATCH * self.prepare / workers, BATCH * self.join + self.step)
        return own / max(own, host)

    def count_workers(self, rate: float) -> int:
        """Return the number of workers from which on such a GPU is busy for ``GOAL``, if the
        training's process is not slower."""
        return math.ceil(GOAL * rate * self.prepare)


class Tiny(_gpu_task.DrawnPictures):
    inputs: ClassVar = {"image": Tensor("float32", ("batch", 3, TINY, TINY))}

    def data(self) -> list[str]:
        return ["drawn tiny"]


def measure_preparing(home: Path) -> tuple[float, float]:
    """Return the seconds to prepare an image, and to join it to a batch."""
    task = Drawings(home, make_pictures(home, PICTURES))
    source = Source(task, task.split("train"), leaves_steps=True)
    epoch = Epoch(source, BATCH, 0)
    requests = [ChunkRequest(0, number) for number in epoch.list_chunks()]

    def prepare_chunks() -> None:
        for request in requests:
            source.read_chunk(request.view, request.number)

    with keep_freed_memory(), open_loader(source, [*requests, *requests], workers=1) as chunks:

        def join_batches() -> None:
            for _ in epoch.iterate_batches(chunks):
                pass

        join_batches()  # the first allocates
        joining = count_cpu_seconds(join_batches)
    prepare_chunks()
    return count_cpu_seconds(prepare_chunks) / PICTURES, joining / PICTURES


def measure_step(count: int = 20) -> float:
    """Return the seconds of the process that trains, for a step of two tiny images."""
    settings = Teach(
        task=f"{__name__}:Tiny",
        network="attar.models.networks.residual:residual",
        options=DEEP,
        batch=2,
        device="cpu",
        precision="fp32",
    )
    module, task = build_network(settings.network, settings.options), Tiny()
    with open_compute(settings, module, "student", 2) as compute:
        parts = (LabelObjective(), FreshViews(0), "student", nn.Module(), compute)
        training = Training(settings, task, module, *parts)
        images = task.example(np.random.default_rng(0), batch=2)
        batch = ViewBatch(np.arange(2), images, {"label": np.arange(2)})

        def take_steps() -> None:
            for step in range(count):
                training.train_step(batch, 0, 1, step)

        take_steps()  # the first allocates
        return count_cpu_seconds(take_steps) / count


def report_costs(costs: HostCosts) -> None:
    print(
        f"preparing {1e3 * costs.prepare:.2f} ms an image, joining {1e6 * costs.join:.0f} us an "
        f"image, a step {1e3 * costs.step:.1f} ms; so the training's process alone allows "
        f"{BATCH / (BATCH * costs.join + costs.step):,.0f} images/s"
    )
    workers = " | ".join(f"{count} workers" for count in WORKERS)
    print(f"| the GPU alone, images/s | {workers} | workers for {GOAL:.0%} |")
    print("| --- " * (len(WORKERS) + 2) + "|")
    for rate in RATES:
        shares = " | ".join(f"{costs.estimate_busy(rate, count):.0%}" for count in WORKERS)
        print(f"| {rate:,} | {shares} | {costs.count_workers(rate)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=find_cache_folder() / "openclipart")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{datetime.now(UTC):%d %B %Y}, {machine.describe_machine()['cpu']}, "
        f"{platform.machine()}, torch {torch.__version__}, seconds of one core"
    )
    prepare, join = measure_preparing(options.home)
    report_costs(HostCosts(prepare, join, measure_step()))


if __name__ == "__main__":
    main()

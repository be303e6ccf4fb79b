"""The batches of a training: which chunks are read for them, and from which samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from attar.models.checks.calls import CheckedSplit, format_place, open_split
from attar.models.checks.watch import SplitWatch
from attar.models.epoch import Epoch, Source
from attar.models.lengths import list_length_axes
from attar.models.mixing import Mixing
from attar.models.pool import LANES, POOL_CHUNKS, Share
from attar.models.task import Split, Task
from attar.stages.learning.settings import TrainingSettings
from attar.stages.loading import ChunkRequest, choose_workers


class ViewSchedule(Protocol):
    @property
    def seed(self) -> int: ...

    @property
    def mixing(self) -> Mixing | None: ...

    def choose_view(self, epoch: int) -> int:
        """Return the number of the view that this epoch reads."""


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a training, as one process reads them."""

    source: Source
    views: ViewSchedule
    settings: TrainingSettings
    share: Share

    def plan_epoch(self, epoch: int, skip: int) -> Epoch:
        """Return the batches of an epoch, but for the first ``skip``."""
        settings, seed = self.settings, (self.settings.seed, epoch)
        return Epoch(self.source, settings.batch, seed, self.share, skip, settings.accumulate)

    def iterate_requests(self, epoch: int, skip: int) -> Iterator[ChunkRequest]:
        """Yield the chunks of this epoch and of all after it."""
        for number in range(epoch, self.settings.epochs + 1):
            view = self.views.choose_view(number - 1)
            for chunk in self.plan_epoch(number, skip if number == epoch else 0).list_chunks():
                yield ChunkRequest(view, chunk)

    @property
    def ahead(self) -> int:
        """The number of chunks that are prepared ahead: a pool."""
        return POOL_CHUNKS if list_length_axes(self.source.task) else LANES

    def choose_workers(self) -> int:
        """Return the number of workers."""
        if self.settings.workers is not None:
            return self.settings.workers
        chunks = self.settings.epochs * len(self.source.sizes) / self.share.world
        return choose_workers(lambda: self.source.read_chunk(self.views.choose_view(0), 0), chunks)


def open_source(
    task: Task, transfer: Split | None, views: ViewSchedule, device: torch.device
) -> Source:
    """Return the samples to learn from. Every batch that a split returns is checked.

    Steps of preprocessing are left to a GPU, unless samples are mixed after them.
    """
    where = format_place(task, "split('transfer')")
    checked = None if transfer is None else CheckedSplit(where, transfer)
    leaves_steps = device.type != "cpu" and views.mixing is None
    split = open_split(task, "train")
    return Source(task, split, checked, views.seed, views.mixing, leaves_steps)


def watch_source(source: Source) -> list[SplitWatch]:
    """Watch the splits, which may change while they are read."""
    splits = [source.split, source.transfer]
    return [SplitWatch.start(split) for split in splits if isinstance(split, CheckedSplit)]

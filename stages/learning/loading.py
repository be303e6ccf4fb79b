"""Loading: chunks are prepared beside the training, by the workers of torch's ``DataLoader``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from attar.models.checks.calls import CheckedSplit, format_place, open_split
from attar.models.checks.watch import SplitWatch
from attar.models.epoch import LANES, POOL_CHUNKS, Epoch, Share, Source
from attar.models.lengths import list_length_axes
from attar.models.mixing import Mixing
from attar.models.task import Array, Arrays, Split, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import AttarError, StageError
from attar.pipeline.keys.machine import count_cores
from attar.stages.learning.settings import TrainingSettings

MOST_WORKERS = 8
"""Workers of a process that are started by default."""
WORTH_WORKERS = 20.0
"""Seconds of preparing in a whole training from which on workers are started by default. Starting
them takes a fraction of a second."""


@dataclass(frozen=True)
class ChunkRequest:
    """A chunk of a view."""

    view: int
    number: int


@dataclass(frozen=True)
class Failure:
    """Why a chunk could not be prepared. An exception would come back with a traceback as its
    message."""

    message: str


class ChunkReader(Dataset[Any]):
    """Prepares chunks, in a worker or in this process.

    Tensors pass between processes in shared memory; what torch has no dtype for is copied.
    """

    def __init__(self, source: Source, workers: int) -> None:
        self.source = source
        self.board = torch.full((workers, 3), -1)
        self.board.share_memory_()  # type: ignore[no-untyped-call]  # torch has no types
        """The process of each worker, and the view and number of the chunk that it prepares."""

    def __getitem__(self, request: ChunkRequest) -> Any:
        worker = get_worker_info()
        if worker is not None:
            self.board[worker.id] = torch.tensor([os.getpid(), request.view, request.number])
        try:
            chunk = self.source.read_chunk(request.view, request.number)
        except AttarError as error:
            return Failure(str(error))
        return (chunk.indices.tolist(), pack_arrays(chunk.inputs), pack_arrays(chunk.targets))


def pack_arrays(arrays: Arrays) -> dict[str, Any]:
    """Return numbers as tensors, and anything else as it is."""
    packed: dict[str, Any] = {}
    for name, array in arrays.items():
        is_numeric = array.dtype.kind in "biuf" and array.dtype.isnative
        fits = is_numeric and array.dtype.itemsize <= np.dtype(np.float64).itemsize
        packed[name] = torch.from_numpy(np.require(array, None, ["C", "W"])) if fits else array
    return packed


def unpack_arrays(arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays that were packed. Their memory is shared with the tensors."""
    return {name: a.numpy() if isinstance(a, Tensor) else a for name, a in arrays.items()}


@contextmanager
def open_loader(
    source: Source, requests: Iterable[ChunkRequest], workers: int
) -> Iterator[Iterator[ViewBatch]]:
    """Open an iterator over prepared chunks, in the order of the requests.

    With workers, chunks are prepared by as many processes beside this one, a pool ahead. Raises
    StageError if a sample cannot be prepared, and if a worker dies.
    """
    reader = ChunkReader(source, workers)
    pool = POOL_CHUNKS if list_length_axes(source.task) else LANES
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        collate_fn=return_unchanged,
        generator=torch.Generator(),  # the seed of workers, which draw no numbers by torch
        prefetch_factor=-(-pool // workers) if workers else None,
        multiprocessing_context="fork" if workers else None,  # a task need not be pickled
    )
    chunks = iter(loader)
    try:
        with closing_workers(chunks):
            yield map(unpack_chunk, chunks)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StageError(explain_death(reader, str(error))) from error


@contextmanager
def closing_workers(chunks: Iterator[Any]) -> Iterator[None]:
    """End the workers at the end, even if a traceback still refers to the iterator.

    Else a worker that died would be told of once more, by a signal, in whatever runs then.
    """
    try:
        yield
    finally:
        if isinstance(chunks, _MultiProcessingDataLoaderIter):
            chunks._shutdown_workers()


def return_unchanged(chunk: Any) -> Any:
    return chunk


def unpack_chunk(chunk: Any) -> ViewBatch:
    if isinstance(chunk, Failure):
        raise StageError(chunk.message)
    indices, inputs, targets = chunk
    return ViewBatch(np.array(indices), unpack_arrays(inputs), unpack_arrays(targets))


def explain_death(reader: ChunkReader, message: str) -> str:
    """Return what to say of a worker that died, from what torch says."""
    reason = message.partition(" It is possible")[0].rstrip(".")
    named = {int(number) for number in re.findall(r"\d+", message)}
    chunks = [row[1:] for row in reader.board.tolist() if row[0] in named]
    where = [reader.source.describe_chunk(view, number) for view, number in chunks]
    return (
        f"{reason}, while it prepared {' and '.join(where) or 'samples'}; if the machine killed it "
        "for its memory (or /dev/shm is full: Bus error), set fewer workers; workers = 0 prepares "
        "the samples in the training's own process"
    )


@dataclass
class BatchClock:
    """Measures how much of a training's time is spent on waiting for batches.

    A GPU may still compute the step before meanwhile, so its own share is at most this.
    """

    waited: float = 0.0
    """Seconds."""
    passed: float = 0.0
    """Seconds of steps and of waiting."""

    @property
    def share(self) -> float:
        return self.waited / self.passed if self.passed else 0.0

    def watch(self, batches: Iterator[ViewBatch]) -> Iterator[ViewBatch]:
        """Yield the batches."""
        started = time.perf_counter()
        for batch in batches:
            given = time.perf_counter()
            self.waited += given - started
            yield batch
            self.passed += time.perf_counter() - started
            started = time.perf_counter()


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
        settings = self.settings
        return Epoch(self.source, settings.batch, (settings.seed, epoch), self.share, skip)

    def iterate_requests(self, epoch: int, skip: int) -> Iterator[ChunkRequest]:
        """Yield the chunks of this epoch and of all after it."""
        for number in range(epoch, self.settings.epochs + 1):
            view = self.views.choose_view(number - 1)
            for chunk in self.plan_epoch(number, skip if number == epoch else 0).list_chunks():
                yield ChunkRequest(view, chunk)

    def choose_workers(self) -> int:
        """Return the number of workers: by default none if preparing all samples takes a short
        time, estimated by one chunk."""
        if self.settings.workers is not None:
            return self.settings.workers
        started = time.perf_counter()
        self.source.read_chunk(self.views.choose_view(0), 0)
        chunks = self.settings.epochs * len(self.source.sizes) / self.share.world
        is_short = (time.perf_counter() - started) * chunks < WORTH_WORKERS
        return 0 if is_short else min(count_spare_cores(), MOST_WORKERS)


def count_spare_cores() -> int:
    """Return the cores of each process of this machine, but for the one that it trains on."""
    return max(0, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


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

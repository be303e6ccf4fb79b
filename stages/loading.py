"""Loading: chunks are prepared beside what reads them, by the workers of torch's ``DataLoader``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from attar.models.pool import LANES
from attar.models.task import Array, Arrays
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import AttarError, StageError
from attar.pipeline.keys.machine import count_cores

MOST_WORKERS = 8
"""Workers of a process that are started by default."""
CLOSING = 1.0
"""Seconds that the end of an epoch waits for the thread that forms batches."""
WORTH_WORKERS = 20.0
"""Seconds of preparing in a whole stage from which on workers are started by default. Starting
them takes a fraction of a second."""


@dataclass(frozen=True)
class ChunkRequest:
    """A chunk of a view, or of what else a source counts."""

    view: int
    number: int


class ChunkSource(Protocol):
    """Samples that are prepared by the chunk."""

    def read_chunk(self, view: int, number: int) -> ViewBatch:
        """Return a chunk as a network reads it. Raises StageError that names the sample that cannot
        be prepared."""

    def describe_chunk(self, view: int, number: int) -> str:
        """Return which samples a chunk holds, for a message."""


@dataclass(frozen=True)
class Failure:
    """Why a chunk could not be prepared. An exception would come back with a traceback as its
    message."""

    message: str


class ChunkReader(Dataset[Any]):
    """Prepares chunks, in a worker or in this process.

    Tensors pass between processes in shared memory; what torch has no dtype for is copied.
    """

    def __init__(self, source: ChunkSource, workers: int) -> None:
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
    source: ChunkSource, requests: Iterable[ChunkRequest], workers: int, ahead: int = LANES
) -> Iterator[Iterator[ViewBatch]]:
    """Open an iterator over prepared chunks, in the order of the requests.

    With workers, chunks are prepared by as many processes beside this one, so many chunks
    ``ahead``, or one each. Raises StageError if a sample cannot be prepared, and if a worker dies.
    """
    reader = ChunkReader(source, workers)
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        collate_fn=return_unchanged,
        generator=torch.Generator(),  # the seed of workers, which draw no numbers by torch
        prefetch_factor=-(-ahead // workers) if workers else None,
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
        "the samples in the stage's own process"
    )


def form_ahead(batches: Iterator[ViewBatch]) -> Generator[ViewBatch]:
    """Yield the batches. A thread forms the next one while a step computes.

    That is copying, which lets go of the interpreter. An error of the thread is raised where its
    batch is asked for. Closing the generator waits a second for the thread, which may wait for a
    worker that has died.
    """
    asked, formed = SimpleQueue[bool](), SimpleQueue[ViewBatch | BaseException | None]()
    arguments = (batches, asked, formed)
    thread = Thread(target=answer_requests, args=arguments, name="attar-batches", daemon=True)
    thread.start()
    asked.put(True)
    try:
        while (batch := formed.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            asked.put(True)
            yield batch
    finally:
        asked.put(False)
        thread.join(CLOSING)


def answer_requests(
    batches: Iterator[ViewBatch],
    asked: SimpleQueue[bool],
    formed: SimpleQueue[ViewBatch | BaseException | None],
) -> None:
    """Give a batch, None after the last one, or the error that it ended in, for each that is asked
    for."""
    while asked.get():
        try:
            formed.put(next(batches, None))
        except BaseException as error:  # noqa: BLE001  # the training raises it, whatever it is
            formed.put(error)


@dataclass
class BatchClock:
    """Measures how much of a stage's time is spent on waiting for batches.

    A GPU may still compute the step before meanwhile, so its own share is at most this.
    """

    waited: float = 0.0
    """Seconds."""
    passed: float = 0.0
    """Seconds of steps and of waiting."""

    @property
    def share(self) -> float:
        return self.waited / self.passed if self.passed else 0.0

    def describe(self) -> str:
        return f"waiting {self.share:.0%}".replace("%", " %")

    def watch(self, batches: Iterator[ViewBatch]) -> Iterator[ViewBatch]:
        """Yield the batches."""
        started = time.perf_counter()
        for batch in batches:
            given = time.perf_counter()
            yield batch
            done = time.perf_counter()
            self.waited += given - started
            self.passed += done - started
            started = done


def choose_workers(read: Callable[[], object], chunks: float) -> int:
    """Return the number of workers where none is set: none if preparing so many chunks takes a
    short time, estimated by ``read``, which prepares one."""
    started = time.perf_counter()
    read()
    is_short = (time.perf_counter() - started) * chunks < WORTH_WORKERS
    return 0 if is_short else min(count_spare_cores(), MOST_WORKERS)


def count_spare_cores() -> int:
    """Return the cores of each process of this machine, but for the one that it computes on."""
    return max(0, count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)

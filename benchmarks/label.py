"""What labelling costs beside the teacher: CPU time of ``Label``'s shards against bare calls of it
on the same inputs."""

from __future__ import annotations

import argparse
import hashlib
import platform
import statistics
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.engines.runtimes.torch import build_network, open_network
from attar.models import preprocess, views
from attar.models.task import InMemory, Output, Predictor, Task, load_task
from attar.pipeline.keys import machine
from attar.pipeline.store.file_cache import FileCache
from attar.stages.label.shard_labeller import ShardLabeller, update_digest
from attar.stages.label.shards import Shard, ShardBuilder, save_shard
from benchmarks.measuring import count_cpu_seconds

GOAL = 0.95
TASK = "attar.models.tasks.fashion:FashionMnist"
RESIDUAL = "attar.models.networks.residual:residual"
TEACHER: dict[str, Any] = {"width": 48, "stem": 2}
"""The demo's. Random weights cost what trained ones do."""
SAMPLES = 2048
PAIRS = 9


def take_first(task: Task) -> InMemory:
    """Return the first samples of the training split."""
    batch = task.split("train").take(np.arange(SAMPLES))
    return InMemory(batch.inputs, batch.targets)


def call_teacher(predict: Predictor, prepared: Iterable[views.ViewBatch]) -> None:
    for seen in prepared:
        predict(seen.inputs)


def time_pair(asking: ShardLabeller, number: int) -> tuple[float, float]:
    """Return the seconds of a view that was not asked before, labelled, and of its inputs given to
    the teacher alone; in turn, either is first."""
    shard = Shard("train", number, 0)
    prepared = list(asking.iterate_chunks(shard))
    calls = {
        "label": lambda: asking.label_shard(shard, asking.iterate_chunks(shard), lambda rows: None),
        "bare": lambda: call_teacher(asking.predict, prepared),
    }
    order = sorted(calls, reverse=bool(number % 2))
    took = {name: count_cpu_seconds(calls[name]) for name in order}
    return took["label"], took["bare"]


def digest_inputs(chunks: Iterable[views.ViewBatch]) -> str:
    decided = hashlib.sha256()
    for seen in chunks:
        update_digest(decided, seen.inputs)
    return decided.hexdigest()


def measure_parts(task: Task, asking: ShardLabeller, folder: Path) -> dict[str, float]:
    """Return the CPU seconds for all samples of each thing that labelling does besides asking."""
    seen, raw = (
        list(asking.iterate_chunks(Shard("train", 0, 0))),
        asking.splits["train"].take(np.arange(views.CHUNK)).inputs,
    )
    logits = np.random.default_rng(0).standard_normal((views.CHUNK, 10)).astype(np.float32)

    def store_answers() -> None:
        packed = ShardBuilder("logits", Output(("batch", 10)), np.float16)
        for _ in seen:
            packed.add(logits)
        FileCache(folder).add("part", lambda path: save_shard(path, [packed]))

    chunks = len(seen)
    return {
        "augment": chunks * count_cpu_seconds(lambda: task.augment(raw, np.random.default_rng(0))),
        "preprocess": chunks * count_cpu_seconds(lambda: preprocess.apply(task.preprocess, raw)),
        "digest": count_cpu_seconds(lambda: digest_inputs(seen)),
        "store": count_cpu_seconds(store_answers),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=PAIRS)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    task = load_task(TASK)
    print(
        f"{datetime.now(UTC):%d %B %Y}, {machine.describe_machine()['cpu']}, "
        f"{platform.machine()}, torch {torch.__version__}, one thread"
    )
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_network(build_network(RESIDUAL, TEACHER), TASK, 1) as predict,
    ):
        kept = FileCache(Path(temporary) / "kept")
        asking = ShardLabeller(
            task, {"train": take_first(task)}, predict, kept, seed=0, top=0, device="cpu"
        )
        time_pair(asking, 1000)  # warm
        took = [time_pair(asking, number) for number in range(chosen.pairs)]
        ratios = [bare / label for label, bare in took]
        ratio = statistics.median(ratios)
        print(
            f"bare {statistics.median(bare for _, bare in took):.2f} s of CPU for {SAMPLES:,} "
            f"samples, {chosen.pairs} pairs"
        )
        for name, each in measure_parts(task, asking, Path(temporary) / "parts").items():
            print(f"  {name:<10} {1e3 * each:.1f} ms")
    print(
        f"throughput {ratio:.3f} of the bare teacher's (median; {min(ratios):.3f} to "
        f"{max(ratios):.3f}), goal {GOAL}"
    )
    assert ratio >= GOAL, "below the goal"


if __name__ == "__main__":
    main()

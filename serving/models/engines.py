"""Opens the engines of a bundle for serving: they are checked, replay the golden requests, and are
warmed up and timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.bundle.finished import compute_difference
from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import BY_CALL, MAX_TOLERANCE, EngineRequirements, Manifest
from attar.bundle.verified import VerifiedBundle
from attar.engines.runtimes.providers import NVIDIA
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.keys import machine
from attar.serving.core.settings import Settings
from attar.serving.protocol.signature import Signature, read_graph_signature, read_raw_signature

WARM, CALLS = 0.05, 30
"""Seconds and calls after which the quickest call counts."""
ALONE = 20
"""Factor of ``inline_below`` on a single core, where a thread computes nothing beside the event
loop, but lets it go on."""
COARSE = ("bf16", "fp16")
"""Precisions in which the order of a sum, which depends on the batch size, shows in the answers."""
ON_GPU = ("tensorrt", "tensorrt-rtx")
"""Runtimes that always run on a GPU."""
log = logging.getLogger(__name__)


@dataclass
class Engines:
    """The engines of a served bundle. ``close`` it."""

    manifest: Manifest
    root: Path
    """The folder of the bundle's files until it is closed, see ``VerifiedBundle``."""
    version: str
    """The version of the content, see ``Seal``."""
    key: str | None
    """Fingerprint of the trusted key that signed it, if one was asked for."""
    graph: Signature
    raw: Signature | None
    """The tensors before the preprocessing steps and behind those on outputs, if there are any."""
    predicts: list[Predict]
    """One for each call at the same time; calls may share an engine."""
    probe: Arrays
    """The first golden request."""
    most: int
    """Maximum rows of a batch."""
    joins: bool
    """Whether rows of different requests may share a call."""
    inline: bool
    """Whether handing over to a thread would cost more than a call."""
    stack: ExitStack

    def close(self) -> None:
        self.stack.close()


def open_engines(path: Path, settings: Settings) -> Engines:
    """Open and warm up the engines of a bundle. Raises InvalidBundleError."""
    with ExitStack() as stack:
        found = stack.enter_context(open_verified_bundle(path, settings))
        root, manifest = found.root, found.manifest
        threads = settings.threads or manifest.engine.threads
        low, high = manifest.ranges.get("batch", (1, 1))
        most = max(low, min(settings.max_batch, high))
        first = open_replayed_engine(found, threads, stack)
        requests, raw, graph = (
            golden.load_requests(root, manifest),
            golden.read_golden(root, manifest),
            read_graph_signature(manifest),
        )
        enough = settings.inline_below * (ALONE if machine.count_cores() == 1 else 1)
        with blame_bundle(f"{path} does not answer batches of {most}, which it promises"):
            seconds = max(
                time_warm_call(first, inputs, enough)
                for inputs in make_largest_batches(requests, manifest, most)
            )
            joins = graph.is_batched and is_batch_invariant(first, requests, manifest, (low, most))
        inline = settings.instances is None and seconds < enough
        count = 1 if inline else settings.instances or count_instances(manifest.engine, threads)
        opened = 1 if is_shareable(manifest.engine, threads) else count
        engines = [first, *(open_replayed_engine(found, threads, stack) for _ in range(opened - 1))]
        return Engines(
            manifest=manifest,
            root=root,
            version=found.seal.version,
            key=found.seal.key,
            graph=graph,
            raw=read_raw_signature(manifest, raw) if has_steps(manifest) else None,
            predicts=engines * (count // opened),
            probe=tile_rows(requests, low),
            most=most,
            joins=joins,
            inline=inline,
            stack=stack.pop_all(),
        )


def has_steps(manifest: Manifest) -> bool:
    return any(manifest.preprocess.values()) or any(manifest.postprocess.values())


def open_verified_bundle(path: Path, settings: Settings) -> VerifiedBundle:
    gated, native = not settings.allow_ungated, settings.allow_native
    return bundle.open_verified(path, gated=gated, trusted=settings.trusted, allow_native=native)


def open_replayed_engine(found: VerifiedBundle, threads: int, stack: ExitStack) -> Predict:
    predict = stack.enter_context(
        bundle.open_engine(found.root, found.manifest, threads, allow_native=found.trusts_native)
    )
    golden.replay_requests(found.root, found.manifest, predict)
    return predict


def tile_rows(requests: Arrays, rows: int) -> dict[str, Array]:
    return {name: array[np.arange(rows) % len(array)] for name, array in requests.items()}


def make_largest_batches(
    requests: Arrays, manifest: Manifest, rows: int
) -> Iterator[dict[str, Array]]:
    """Yield full batches of golden content, as it is and in the largest promised shapes, which cost
    most time and memory."""
    yield tile_rows(requests, rows)
    sizes = {**{axis: high for axis, (_, high) in manifest.ranges.items()}, "batch": rows}
    axes = {
        name: [
            axis if isinstance(axis, int) else sizes[axis] for axis in manifest.inputs[name].axes
        ]
        for name in requests
    }
    if any(list(requests[name].shape[1:]) != shape[1:] for name, shape in axes.items()):
        yield {name: np.resize(array, axes[name]) for name, array in requests.items()}


def time_warm_call(predict: Predict, inputs: Arrays, enough: float) -> float:
    """Return the seconds of a warm call; a call that is too slow to run on the loop
    is not repeated much."""
    taken: list[float] = []
    while sum(taken) < WARM and len(taken) < CALLS and (len(taken) < 3 or min(taken) < enough):
        start = perf_counter()
        predict(inputs)
        taken.append(perf_counter() - start)
    return min(taken)


def is_batch_invariant(
    predict: Predict, requests: Arrays, manifest: Manifest, rows: tuple[int, int]
) -> bool:
    """Whether a request gets the answer that it would get alone, whoever it shares a call with;
    ``rows``: fewest and most."""
    precision = manifest.engine.precision
    allowed = MAX_TOLERANCE if precision in COARSE else manifest.golden.tolerance
    if any(output.kind == "tokens" for output in manifest.outputs.values()):
        allowed = 0.0  # another token is another answer
    apart = 0.0 if precision in BY_CALL else measure_batch_effect(predict, requests, rows)
    if precision not in BY_CALL and apart <= allowed:
        return True
    why = (
        f"{precision} rounds by the whole call"
        if precision in BY_CALL
        else f"that moves answers by {apart:.2g}"
    )
    log.warning("%s: requests are not joined to batches: %s", manifest.name, why)
    return False


def measure_batch_effect(predict: Predict, requests: Arrays, rows: tuple[int, int]) -> float:
    """Return the difference between the answers in small calls and in one large call, relative to
    their magnitude."""
    few, many = rows
    inputs = tile_rows(requests, many - many % few)
    whole, apart = predict(inputs), golden.predict_in_batches(predict, inputs, few)
    return max(compute_difference(whole[name], apart[name]) for name in whole)


def runs_on_gpu(needs: EngineRequirements) -> bool:
    return needs.runtime in ON_GPU or needs.provider in NVIDIA


def count_instances(needs: EngineRequirements, threads: int) -> int:
    """Return how many calls run at a time: as many as the cores have room for, and one on a GPU,
    which runs them one after another."""
    return 1 if runs_on_gpu(needs) else max(1, machine.count_cores() // threads)


def is_shareable(needs: EngineRequirements, threads: int) -> bool:
    """Whether one opened engine answers several calls at a time as quickly as several engines.

    A session of ONNX Runtime with one thread computes in the thread that calls it. With more
    threads, calls would wait for them.
    """
    return needs.runtime == "onnxruntime" and threads == 1

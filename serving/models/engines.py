"""Opens the engines of a bundle for serving: they are checked, replay the golden requests, and are
warmed up and timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from attar.bundle import golden
from attar.bundle import opening as bundle
from attar.bundle.engines import list_engines, open_bundle_engines, replay_engines
from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import EngineRequirements, Manifest
from attar.bundle.verified import VerifiedBundle, hold_step_files
from attar.engines.runtimes.providers import NVIDIA
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.keys import machine
from attar.serving.core.settings import Settings
from attar.serving.models.joining import Joining, find_joining, tile_rows
from attar.serving.protocol.signature import Signature, read_graph_signature, read_raw_signature

WARM, CALLS = 0.05, 30
"""Seconds and calls after which the quickest call counts."""
ALONE = 20
"""Factor of ``inline_below`` on a single core, where a thread computes nothing beside the event
loop, but lets it go on."""
ON_GPU = ("tensorrt", "tensorrt-rtx")
"""Runtimes that always run on a GPU."""


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
    joining: Joining
    """Which requests may share a call."""
    inline: bool
    """Whether handing over to a thread would cost more than a call."""
    stack: ExitStack

    def close(self) -> None:
        self.stack.close()


def open_engines(path: Path, settings: Settings) -> Engines:
    """Open and warm up the engines of a bundle. Raises InvalidBundleError."""
    with ExitStack() as stack:
        found = hold_step_files(stack.enter_context(open_verified_bundle(path, settings)))
        root, manifest = found.root, found.manifest
        low, high = manifest.ranges.get("batch", (1, 1))
        most = max(low, min(settings.max_batch, high))
        first = open_replayed_engine(found, settings, stack)
        requests, raw, graph = (
            golden.load_requests(root, manifest),
            golden.read_golden(root, manifest),
            read_graph_signature(manifest),
        )
        enough = settings.inline_below * (ALONE if machine.count_cores() == 1 else 1)
        with blame_bundle(f"{path} does not answer batches of {most}, which it promises"):
            seconds = max(
                time_warm_call(engine, inputs, enough)
                for inputs in make_largest_batches(requests, manifest, most)
                for engine in list_engines(first)
            )
            joining = Joining(joins=False)
            if graph.is_batched:
                joining = find_joining(first, requests, manifest, (low, most))
        inline = settings.instances is None and seconds < enough
        needs = [part.engine for part in manifest.parts]
        count = 1 if inline else settings.instances or count_instances(needs, settings.threads)
        opened = 1 if is_shareable(needs, settings.threads) else count
        more = [open_replayed_engine(found, settings, stack) for _ in range(opened - 1)]
        found.check_unchanged()
        return Engines(
            manifest=manifest,
            root=root,
            version=found.seal.version,
            key=found.seal.key,
            graph=graph,
            raw=read_raw_signature(manifest, raw) if has_steps(manifest) else None,
            predicts=[first, *more] * (count // opened),
            probe=tile_rows(requests, low),
            most=most,
            joining=joining,
            inline=inline,
            stack=stack.pop_all(),
        )


def has_steps(manifest: Manifest) -> bool:
    return any(manifest.preprocess.values()) or any(manifest.postprocess.values())


def open_verified_bundle(path: Path, settings: Settings) -> VerifiedBundle:
    gated, native = not settings.allow_ungated, settings.allow_native
    return bundle.open_verified(path, gated=gated, trusted=settings.trusted, allow_native=native)


def open_replayed_engine(found: VerifiedBundle, settings: Settings, stack: ExitStack) -> Predict:
    root, manifest, native = found.root, found.manifest, found.trusts_native
    predict = stack.enter_context(
        open_bundle_engines(root, manifest, settings.threads, allow_native=native)
    )
    replay_engines(root, manifest, predict)
    return predict


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


def runs_on_gpu(needs: EngineRequirements) -> bool:
    return needs.runtime in ON_GPU or needs.provider in NVIDIA


def count_instances(needs: Sequence[EngineRequirements], threads: int | None) -> int:
    """Return how many calls run at a time: as many as the cores have room for, and one on a GPU,
    which runs them one after another. ``threads``: of each engine, instead of its own."""
    if any(runs_on_gpu(each) for each in needs):
        return 1
    most = threads or max(each.threads for each in needs)
    return max(1, machine.count_cores() // most)


def is_shareable(needs: Sequence[EngineRequirements], threads: int | None) -> bool:
    """Whether opened engines answer several calls at a time as quickly as several of each.

    A session of ONNX Runtime with one thread computes in the thread that calls it. With more
    threads, calls would wait for them.
    """
    return all(each.runtime == "onnxruntime" and (threads or each.threads) == 1 for each in needs)

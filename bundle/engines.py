"""Engines: opens what a verified bundle runs. A bundle may hold one engine for single samples and
one for batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from attar.bundle import golden
from attar.bundle.engine_needs import explain_native_refusal, make_build_spec
from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import BatchEngine, Manifest
from attar.engines.runtimes.runtime import load_runtime
from attar.models.task import Array, Arrays, Predict, Predictor
from attar.pipeline.core.errors import InvalidBundleError


@dataclass(frozen=True)
class EnginePair:
    """Both engines of a bundle as one function. The number of rows of a call says which computes
    it."""

    single: Predict
    batch: Predict
    rows: int
    """Calls of so many rows or more are the batch engine's."""
    counted: tuple[str, int]
    """The input, and its axis, that has the rows of a call."""

    def choose(self, rows: int) -> Predict:
        return self.batch if rows >= self.rows else self.single

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        name, axis = self.counted
        return self.choose(inputs[name].shape[axis])(inputs)


def list_engines(predict: Predict) -> Sequence[Predict]:
    """Return the engines behind a function, in the order of ``Manifest.parts``."""
    return (predict.single, predict.batch) if isinstance(predict, EnginePair) else (predict,)


@contextmanager
def open_bundle_engines(
    path: Path, manifest: Manifest, threads: int | None = None, *, allow_native: bool = False
) -> Iterator[Predict]:
    """Open every engine of a verified bundle, as one function.

    Raises InvalidBundleError if one does not open, and for native code unless that is allowed.
    """
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                open_engine(path, manifest, threads, part=part, allow_native=allow_native)
            )
            for part in manifest.parts
        ]
        batch = manifest.batch
        if batch is None:
            yield opened[0]
        else:
            yield EnginePair(opened[0], opened[1], batch.rows, find_batch_axis(manifest))


def find_batch_axis(manifest: Manifest) -> tuple[str, int]:
    """Return an input that has the axis ``batch``, and the number of that axis."""
    found = (
        (name, tensor.axes.index("batch"))
        for name, tensor in manifest.inputs.items()
        if "batch" in tensor.axes
    )
    return next(found)


def replay_engines(path: Path, manifest: Manifest, predict: Predict) -> float:
    """Take step (8) of ``attar.bundle.opening``: return how far the engines are from their golden
    answers. Raises InvalidBundleError if one is too far."""
    return max(
        golden.replay_requests(path, manifest, engine, hop=part.hop)
        for part, engine in zip(manifest.parts, list_engines(predict), strict=True)
    )


@contextmanager
def open_engine(
    path: Path,
    manifest: Manifest,
    threads: int | None = None,
    *,
    part: Manifest | BatchEngine | None = None,
    allow_native: bool = False,
) -> Iterator[Predictor]:
    """Open one engine of a verified bundle, that for single samples unless ``part`` is given.

    Raises InvalidBundleError if it does not open, and for native code unless that is allowed.
    """
    part = part or manifest
    needs = part.engine
    if not allow_native and (refusal := explain_native_refusal(needs)):
        raise InvalidBundleError(f"the engine of {path} is not loaded: {refusal}")
    runtime, folder = load_runtime(needs.runtime), path / part.folder / "engines" / needs.runtime
    files = {name: folder / f"{name}{runtime.suffix}" for name in manifest.graphs}
    with ExitStack() as stack:
        with blame_bundle(f"the engine of {path} does not open"):
            predictor = stack.enter_context(runtime.open(files, make_build_spec(needs, threads)))
        yield predictor


@contextmanager
def open_reference(
    path: Path, manifest: Manifest, threads: int | None = None
) -> Iterator[Predictor]:
    """Open the fp32 student of a verified bundle. Raises InvalidBundleError if it does not open."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / "reference" / f"{name}.onnx" for name in manifest.graphs}
    with ExitStack() as stack:
        with blame_bundle(f"the reference of {path} does not open"):
            session = onnxruntime.open_session(files, threads or manifest.engine.threads)
            predictor = stack.enter_context(session)
        yield predictor

"""A bundle, as those who use it see it: checked first, then a function from named arrays to named
arrays.

Needs numpy, pydantic, safetensors and the engine's runtime; never torch or onnx. In a bundle's
folder:

    graphs/ reference/      the ONNX graphs with precision baked in, and the student in fp32
    engines/RUNTIME/        what is run here manifest.json           see ``attar.bundle.manifest``
    golden.safetensors      requests with the teacher's and the engine's answers, replayed before
    the first use preprocess/             what its steps read, such as a tokenizer README.md triton/
    SHA256SUMS SHA256SUMS.sig          where somebody signed it, see ``attar.bundle.signatures``

One whose engine the machine that packaged it could not run is unfinished: nothing here opens it
until ``attar.bundle.finish`` did its work on a machine that can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from attar.bundle import golden, triton
from attar.bundle.accept import check_inputs, check_tensors
from attar.bundle.engine_needs import (
    check_machine,
    check_runnable,
    explain_native_refusal,
    make_build_spec,
)
from attar.bundle.finished import compute_difference
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import MAX_TOLERANCE, Manifest
from attar.bundle.stored_verdict import check_verdict
from attar.bundle.verified import VerifiedBundle, open_sealed
from attar.engines.graphs.placement import PLACEMENTS, SYMMETRIC
from attar.engines.runtimes import runtime as runtimes
from attar.models import preprocess
from attar.models.task import Array, Arrays, Predict, Predictor
from attar.pipeline.core.errors import AttarError, InvalidBundleError, RecipeError
from attar.pipeline.core.stage import Facts

LOADED = "loaded"
"""What ``check`` says of an engine that answered the golden requests."""


class BundlePredictor:
    """Answers requests. Call it with the graph's inputs; ``close`` it, or use it in a ``with``
    statement."""

    def __init__(self, manifest: Manifest, predictor: Predictor, opened: ExitStack) -> None:
        self.manifest = manifest
        self._predictor, self._opened = predictor, opened

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Outputs by name for a batch of preprocessed inputs. Raises AttarError for inputs that the
        bundle does not take."""
        check_inputs(self.manifest, inputs)
        return self._predictor(inputs)

    def preprocess(self, raw: Arrays) -> dict[str, Array]:
        """Raw inputs, such as strings or pixels of 0 to 255, to what the graph reads: the same
        steps that the training ran."""
        return preprocess.apply(self.manifest.preprocess, raw)

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes in the order of the logits; empty for other outputs."""
        return self.manifest.labels

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> BundlePredictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_bundle(
    path: str | Path,
    threads: int | None = None,
    *,
    trusted: str | Path | None = None,
    allow_native: bool = False,
) -> BundlePredictor:
    """Check the bundle and open its engine. ``threads``: as many as it was built for, unless given.

    ``trusted``: a file of public keys in PEM, one of which must have signed the bundle.
    ``allow_native``: load an engine that is native code without it, see ``Runtime.native_content``.
    Raises InvalidBundleError, and AttarError for less than one thread.
    """
    if threads is not None and threads < 1:
        raise AttarError(
            f"{path} cannot be opened on {threads} threads; give 1 or more, or none for as many as "
            "it was built for"
        )
    keys = Path(trusted) if trusted is not None else None
    with ExitStack() as stack:
        found = stack.enter_context(
            open_verified(Path(path), trusted=keys, allow_native=allow_native)
        )
        predictor = stack.enter_context(
            open_engine(found.root, found.manifest, threads, allow_native=found.trusts_native)
        )
        replay_requests(found.root, found.manifest, predictor)
        return BundlePredictor(found.manifest, predictor, stack.pop_all())


def check_bundle(
    path: str | Path, trusted: Path | None = None, *, allow_native: bool = False
) -> Facts:
    """Files, verdict, machine and golden requests, of the portable graphs too, and where keys are
    ``trusted`` the signature. Raises InvalidBundleError for the first that is not right.

    An engine that is native code is not loaded unless a trusted key signed it, or ``allow_native``
    is given; ``engine`` says so.
    """
    with open_verified(Path(path), trusted=trusted, allow_native=allow_native) as found:
        refusal = None if found.trusts_native else explain_native_refusal(found.manifest.engine)
        if refusal:
            check_runnable(found.manifest.engine)
        largest = None if refusal else replay_engine(found)
        check_portable(found.root, found.manifest)
        return describe_bundle(found, refusal, largest)


def describe_bundle(found: VerifiedBundle, refusal: str | None, largest: float | None) -> Facts:
    """``refusal``: why the engine was not loaded; ``largest``: how far it is from its golden
    answers where it was."""
    manifest, seal = found.manifest, found.seal
    return {
        "bundle": manifest.name,
        "files": len(seal.sums),
        "verdict": manifest.verdict.verdict,
        "finished": manifest.finished and manifest.finished.date,
        "machine": "fits",
        "engine": f"not loaded: {refusal}" if refusal else LOADED,
        "signature": ("valid" if seal.key else "not checked") if seal.signature else None,
        "key": seal.key,
        "golden": {**manifest.golden.model_dump(), "largest_difference": largest},
    }


def replay_engine(found: VerifiedBundle) -> float:
    with open_engine(found.root, found.manifest, allow_native=found.trusts_native) as predict:
        return replay_requests(found.root, found.manifest, predict)


def check_portable(path: Path, manifest: Manifest) -> None:
    """The graphs that others run. Raises InvalidBundleError where they answer otherwise than the
    engine, or than it was recorded of them where it was, and where they are not those in
    ``triton/``."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / "graphs" / f"{name}.onnx" for name in manifest.graphs}
    who = "model" if "model" in manifest.answered else "engine"
    tolerance = max(MAX_TOLERANCE, golden.find_tolerance(manifest.engine))
    threads, integers = (
        manifest.engine.threads,
        PLACEMENTS.get(manifest.engine.runtime) is not SYMMETRIC,
    )  # as in ``OnnxModel``
    with (
        blame_bundle(f"the graphs of {path} do not open"),
        onnxruntime.open_session(files, threads, integers=integers) as predict,
    ):
        try:
            replay_requests(path, manifest, predict, tolerance, who)
        except InvalidBundleError as error:
            raise InvalidBundleError(
                f"graphs/ is not what the engine was built from: {error}"
            ) from error
    triton.check_repository(path, manifest)


def open_verified(
    path: Path, *, gated: bool = True, trusted: Path | None = None, allow_native: bool = False
) -> VerifiedBundle:
    """A bundle that is whole, fit to serve and for this machine. Raises InvalidBundleError.

    ``gated=False`` lets one through that was not passed, though never an unfinished one.
    ``allow_native``: it may be opened by who got this, whatever its engine is and whoever made it.
    """
    found = open_whole(path, gated=gated, trusted=trusted)
    with found.closed_on_error():
        check_machine(found.manifest.engine)
    return replace(found, allow_native=allow_native)


def open_whole(path: Path, *, gated: bool = True, trusted: Path | None = None) -> VerifiedBundle:
    """As ``verified``, for any machine."""
    found = open_sealed(path, trusted)
    with found.closed_on_error():
        manifest = found.manifest
        if manifest.unfinished:
            raise InvalidBundleError(
                f"{path} is unfinished: its {manifest.engine.runtime} engine was not run where it "
                f"was packaged ({manifest.not_run_here}); run `attar finish {path} -o DIR` on a "
                "machine that can"
            )
        if gated:
            check_verdict(path, manifest.verdict, finished=manifest.finished is not None)
        if manifest.finished:
            golden.check_finished(found.root, manifest)
    return found


def open_unfinished(path: Path, trusted: Path | None = None) -> VerifiedBundle:
    """One that lacks nothing but its engine. Raises InvalidBundleError, and RecipeError for one
    that has it."""
    found = open_sealed(path, trusted)
    with found.closed_on_error():
        manifest = found.manifest
        if not manifest.unfinished:
            done = (
                f"was finished on {manifest.finished.date}"
                if manifest.finished
                else f"is {manifest.verdict.verdict}"
            )
            raise RecipeError(
                f"{path} {done}, nothing of it is unfinished; `attar check {path}` says whether it "
                "fits this machine"
            )
        check_verdict(path, manifest.verdict, finished=True)
        check_portable(found.root, manifest)
    return found


@contextmanager
def open_engine(
    path: Path, manifest: Manifest, threads: int | None = None, *, allow_native: bool = False
) -> Iterator[Predictor]:
    """The engine of a verified bundle. Raises InvalidBundleError when it does not open, and for
    one that is native code unless that is allowed."""
    needs = manifest.engine
    if not allow_native and (refusal := explain_native_refusal(needs)):
        raise InvalidBundleError(f"the engine of {path} is not loaded: {refusal}")
    runtime = runtimes.load_runtime(needs.runtime)
    files = {
        name: path / "engines" / needs.runtime / f"{name}{runtime.suffix}"
        for name in manifest.graphs
    }
    with ExitStack() as stack:
        with blame_bundle(f"the engine of {path} does not open"):
            predictor = stack.enter_context(runtime.open(files, make_build_spec(needs, threads)))
        yield predictor


@contextmanager
def open_reference(
    path: Path, manifest: Manifest, threads: int | None = None
) -> Iterator[Predictor]:
    """The fp32 student of a verified bundle. Raises InvalidBundleError when it does not open."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / "reference" / f"{name}.onnx" for name in manifest.graphs}
    with ExitStack() as stack:
        with blame_bundle(f"the reference of {path} does not open"):
            predictor = stack.enter_context(
                onnxruntime.open_session(files, threads or manifest.engine.threads)
            )
        yield predictor


def load_requests(path: Path, manifest: Manifest) -> dict[str, Array]:
    """The golden requests, preprocessed."""
    return preprocess_requests(path, manifest, golden.read_golden(path, manifest))


def preprocess_requests(path: Path, manifest: Manifest, tensors: Arrays) -> dict[str, Array]:
    """Raises InvalidBundleError when the steps do not make of them what the graph reads."""
    with blame_bundle(f"{path} does not preprocess its own golden requests"):
        inputs = preprocess.apply(
            manifest.preprocess, {name: tensors[f"raw.{name}"] for name in manifest.inputs}
        )
        check_tensors(manifest, inputs)
    return inputs


def replay_requests(
    path: Path,
    manifest: Manifest,
    predict: Predict,
    tolerance: float | None = None,
    who: str = "engine",
) -> float:
    """Answer the golden requests again; the largest difference, relative to the tolerance's scale.
    Raises InvalidBundleError beyond it."""
    allowed = tolerance or manifest.golden.tolerance
    tensors = golden.read_golden(path, manifest)
    inputs = preprocess_requests(path, manifest, tensors)
    with blame_bundle(f"{path} does not answer its golden requests"):
        got = predict_in_batches(predict, inputs, manifest.ranges.get("batch", (1, 1))[1])
        found = {
            name: compute_difference(tensors[f"{who}.{name}"], got[name])
            for name in manifest.outputs
            if name in got
        }
    if missing := manifest.outputs.keys() - got.keys():
        raise InvalidBundleError(
            f"{path} does not answer {min(missing)!r}, which its manifest names; it answers "
            f"{', '.join(got)}. {AGAIN}"
        )
    for name, largest in found.items():
        if not largest <= allowed:
            raise InvalidBundleError(
                f"{path} does not repeat its golden answers: {name!r} is off by {largest:.2g} of "
                f"its magnitude, allowed {allowed:g}; this runtime computes something else, so "
                "build the engine here"
            )
    return max(found.values())


def predict_in_batches(predict: Predict, inputs: Arrays, batch: int) -> dict[str, Array]:
    """Answers for any number of samples, asked for in calls of at most ``batch``."""
    samples = len(next(iter(inputs.values())))
    parts = [
        predict({name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, samples, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

"""A bundle, as those who use it see it: checked first, then a function from named arrays to named arrays.

Needs numpy, pydantic, safetensors and the engine's runtime; never torch or onnx. In a bundle's folder:

    graphs/ reference/      the ONNX graphs with precision baked in, and the student in fp32
    engines/RUNTIME/        what is run here
    manifest.json           see ``attar.bundle.manifest``
    golden.safetensors      requests with the teacher's and the engine's answers, replayed before the first use
    preprocess/             what its steps read, such as a tokenizer
    README.md triton/ SHA256SUMS
    SHA256SUMS.sig          where somebody signed it, see ``attar.bundle.signatures``

One whose engine the machine that packaged it could not run is unfinished: nothing here opens it until ``attar.bundle.finish`` did
its work on a machine that can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from pydantic import ValidationError

from attar.bundle import checksums, golden, signatures, triton
from attar.bundle.accept import accept, dynamic_sizes
from attar.bundle.checksums import Seal
from attar.bundle.finished import difference
from attar.bundle.fitness import AGAIN, unfit
from attar.bundle.judgement import check_fit
from attar.bundle.manifest import LOOSEST, Manifest, Needs
from attar.bundle.steps import located
from attar.engines.graphs.placement import PLACEMENTS, SYMMETRIC
from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import Asked
from attar.models import preprocess
from attar.models.task import Array, Arrays, Predict, Predictor
from attar.pipeline.core.errors import AttarError, RecipeError, Unfit
from attar.pipeline.core.stage import Facts

INDIFFERENT = {"cores"}
"""What the runtime records about a machine and an engine does without."""


class BundlePredictor:
    """Answers requests. Call it with the graph's inputs; ``close`` it, or use it in a ``with`` statement."""

    def __init__(self, manifest: Manifest, predictor: Predictor, opened: ExitStack) -> None:
        self.manifest = manifest
        self._predictor, self._opened = predictor, opened

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Outputs by name for a batch of preprocessed inputs. Raises AttarError for inputs that the bundle does not take."""
        accept(self.manifest, inputs)
        return self._predictor(inputs)

    def preprocess(self, raw: Arrays) -> dict[str, Array]:
        """Raw inputs, such as strings or pixels of 0 to 255, to what the graph reads: the same steps that the training ran."""
        return preprocess.apply(self.manifest.preprocess, raw)

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes in the order of the logits; empty for other outputs."""
        return self.manifest.labels

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> BundlePredictor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_bundle(path: str | Path, threads: int | None = None, *, trusted: str | Path | None = None) -> BundlePredictor:
    """Check the bundle and open its engine. ``threads``: as many as it was built for, unless given.

    ``trusted``: a file of public keys in PEM, one of which must have signed the bundle. Raises Unfit, and AttarError for less
    than one thread.
    """
    if threads is not None and threads < 1:
        raise AttarError(f"{path} cannot be opened on {threads} threads; give 1 or more, or none for as many as it was built for")
    predictor, _ = _checked(Path(path), threads, Path(trusted) if trusted is not None else None)
    return predictor


def check(path: str | Path, trusted: Path | None = None) -> Facts:
    """Files, verdict, machine and golden requests, of the portable graphs too, and where keys are ``trusted`` the signature.
    Raises Unfit for the first that is not right."""
    predictor, facts = _checked(Path(path), None, trusted)
    predictor.close()
    check_portable(Path(path), predictor.manifest)
    return facts


def check_portable(path: Path, manifest: Manifest) -> None:
    """The graphs that others run. Raises Unfit where they answer otherwise than the engine, or than it was recorded of them where
    it was, and where they are not those in ``triton/``."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / "graphs" / f"{name}.onnx" for name in manifest.graphs}
    who = "model" if "model" in manifest.answered else "engine"
    tolerance = max(LOOSEST, golden.within(manifest.engine))
    threads, integers = manifest.engine.threads, PLACEMENTS.get(manifest.engine.runtime) is not SYMMETRIC  # as in ``OnnxModel``
    with unfit(f"the graphs of {path} do not open"), onnxruntime.opened(files, threads, integers=integers) as predict:
        try:
            replay(path, manifest, predict, tolerance, who)
        except Unfit as error:
            raise Unfit(f"graphs/ is not what the engine was built from: {error}") from error
    triton.check(path, manifest)


def verified(path: Path, *, gated: bool = True, trusted: Path | None = None) -> tuple[Manifest, Seal]:
    """The manifest and the seal of a bundle that is whole, fit to serve and for this machine. Raises Unfit.

    ``gated=False`` lets one through that was not passed, though never an unfinished one.
    """
    manifest, seal = whole(path, gated=gated, trusted=trusted)
    check_machine(manifest.engine)
    return manifest, seal


def whole(path: Path, *, gated: bool = True, trusted: Path | None = None) -> tuple[Manifest, Seal]:
    """As ``verified``, for any machine."""
    manifest, seal = sealed(path, trusted)
    if manifest.unfinished:
        raise Unfit(
            f"{path} is unfinished: its {manifest.engine.runtime} engine was not run where it was packaged "
            f"({manifest.not_run_here}); run `attar finish {path} -o DIR` on a machine that can"
        )
    if gated:
        check_fit(path, manifest.verdict, finished=manifest.finished is not None)
    if manifest.finished:
        golden.check_finished(path, manifest)
    return manifest, seal


def unfinished(path: Path, trusted: Path | None = None) -> tuple[Manifest, Seal]:
    """Of a bundle that lacks nothing but its engine. Raises Unfit, and RecipeError for one that has it."""
    manifest, seal = sealed(path, trusted)
    if not manifest.unfinished:
        done = f"was finished on {manifest.finished.date}" if manifest.finished else f"is {manifest.verdict.verdict}"
        raise RecipeError(f"{path} {done}, nothing of it is unfinished; `attar check {path}` says whether it fits this machine")
    check_fit(path, manifest.verdict, finished=True)
    check_portable(path, manifest)
    return manifest, seal


def sealed(path: Path, trusted: Path | None = None) -> tuple[Manifest, Seal]:
    """The manifest and the seal of a bundle whose files are those that were packaged, and signed by one of the keys in
    ``trusted``, where that is given. Raises Unfit."""
    if not path.is_dir():
        raise Unfit(f"{path} is no folder; a bundle is one, written by `attar package`")
    with unfit(f"{path} cannot be verified"):
        seal = checksums.read(path)
        if trusted is not None:
            seal = signatures.checked(path, seal, trusted)
        checksums.verify(path, seal)
    return placed(read_manifest(path), path), seal


def placed(manifest: Manifest, path: Path) -> Manifest:
    """As it is where the bundle lies: its steps find their files."""
    return manifest.model_copy(update={"preprocess": located(manifest.preprocess, path)})


def read_manifest(path: Path) -> Manifest:
    """As it is written. Raises Unfit when there is none, or it is not complete and consistent."""
    file = path / "manifest.json"
    if not file.is_file():
        raise Unfit(f"{path} has no manifest.json: not a bundle, or not a whole one; bundles are written by `attar package`")
    with unfit(f"{file} cannot be read"):
        content = file.read_bytes()
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        said = first["msg"].removeprefix("Value error, ")
        raise Unfit(f"{file} is not one that this version reads: {where}: {said}. {AGAIN}") from error


def check_machine(needs: Needs) -> None:
    """Raises Unfit when the engine was built for another runtime or machine than is here."""
    with unfit(f"the engine needs {needs.runtime} {needs.version}"):
        environment = runtimes.load(needs.runtime).environment()
    version, here = environment.version, environment.machine
    if version.split(".")[:2] != (needs.version or "").split(".")[:2]:
        raise Unfit(f"the engine was built by {needs.runtime} {needs.version}, here is {version}; install that, or build it here")
    other = [
        f"{name} {needs.machine.get(name)}, here {here[name]}"
        for name in here
        if name not in INDIFFERENT and needs.machine.get(name) != here[name]
    ]
    if other:
        raise Unfit(f"the engine was built on another machine: {'; '.join(other)}. Build it on this one")


def asked_of(needs: Needs, threads: int | None = None) -> Asked:
    return Asked(needs.precision, threads or needs.threads, needs.provider, needs.profile, needs.options)


@contextmanager
def opened(path: Path, manifest: Manifest, threads: int | None = None) -> Iterator[Predictor]:
    """The engine of a verified bundle. Raises Unfit when it does not open."""
    needs = manifest.engine
    runtime = runtimes.load(needs.runtime)
    files = {name: path / "engines" / needs.runtime / f"{name}{runtime.suffix}" for name in manifest.graphs}
    with ExitStack() as stack:
        with unfit(f"the engine of {path} does not open"):
            predictor = stack.enter_context(runtime.opened(files, asked_of(needs, threads)))
        yield predictor


@contextmanager
def opened_reference(path: Path, manifest: Manifest, threads: int | None = None) -> Iterator[Predictor]:
    """The fp32 student of a verified bundle. Raises Unfit when it does not open."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / "reference" / f"{name}.onnx" for name in manifest.graphs}
    with ExitStack() as stack:
        with unfit(f"the reference of {path} does not open"):
            predictor = stack.enter_context(onnxruntime.opened(files, threads or manifest.engine.threads))
        yield predictor


def requests(path: Path, manifest: Manifest) -> dict[str, Array]:
    """The golden requests, preprocessed."""
    return prepared(path, manifest, golden.read(path, manifest))


def prepared(path: Path, manifest: Manifest, tensors: Arrays) -> dict[str, Array]:
    """Raises Unfit when the steps do not make of them what the graph reads."""
    with unfit(f"{path} does not preprocess its own golden requests"):
        inputs = preprocess.apply(manifest.preprocess, {name: tensors[f"raw.{name}"] for name in manifest.inputs})
        dynamic_sizes(manifest, inputs)
    return inputs


def replay(path: Path, manifest: Manifest, predict: Predict, tolerance: float | None = None, who: str = "engine") -> float:
    """Answer the golden requests again; the largest difference, relative to the tolerance's scale. Raises Unfit beyond it."""
    allowed = tolerance or manifest.golden.tolerance
    tensors = golden.read(path, manifest)
    inputs = prepared(path, manifest, tensors)
    with unfit(f"{path} does not answer its golden requests"):
        got = in_batches(predict, inputs, manifest.ranges.get("batch", (1, 1))[1])
        found = {name: difference(tensors[f"{who}.{name}"], got[name]) for name in manifest.outputs if name in got}
    if missing := manifest.outputs.keys() - got.keys():
        raise Unfit(f"{path} does not answer {min(missing)!r}, which its manifest names; it answers {', '.join(got)}. {AGAIN}")
    for name, largest in found.items():
        if not largest <= allowed:
            raise Unfit(
                f"{path} does not repeat its golden answers: {name!r} is off by {largest:.2g} of its magnitude, allowed "
                f"{allowed:g}; this runtime computes something else, so build the engine here"
            )
    return max(found.values())


def in_batches(predict: Predict, inputs: Arrays, batch: int) -> dict[str, Array]:
    """Answers for any number of samples, asked for in calls of at most ``batch``."""
    samples = len(next(iter(inputs.values())))
    parts = [
        predict({name: array[start : start + batch] for name, array in inputs.items()}) for start in range(0, samples, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _checked(path: Path, threads: int | None, trusted: Path | None) -> tuple[BundlePredictor, Facts]:
    manifest, seal = verified(path, trusted=trusted)
    with ExitStack() as stack:
        predictor = stack.enter_context(opened(path, manifest, threads))
        largest = replay(path, manifest, predictor)
        facts = {
            "bundle": manifest.name,
            "files": len(seal.sums),
            "verdict": manifest.verdict.verdict,
            "finished": manifest.finished and manifest.finished.date,
            "machine": "fits",
            "signature": ("valid" if seal.key else "not checked") if seal.signature else None,
            "key": seal.key,
            "golden": {**manifest.golden.model_dump(), "largest_difference": largest},
        }
        return BundlePredictor(manifest, predictor, stack.pop_all()), facts

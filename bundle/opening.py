"""Open and check a bundle.

A bundle has one engine, or one for single samples and one for batches: each takes every step.

An opened bundle is a function from named arrays to named arrays. It needs numpy, pydantic,
safetensors and the engine's runtime; never torch or onnx. In a bundle's folder:

    graphs/ reference/      the ONNX graphs in the target's precision; the student in fp32
    engines/RUNTIME/        what is run here
    batch/                  graphs/ and engines/RUNTIME/ of the engine for batches, if it is another
    manifest.json           see ``attar.bundle.manifest``
    golden.safetensors      requests, and the answers of the teacher and of the engine
    preprocess/ postprocess/
                            files of the steps on inputs and outputs, such as a tokenizer
    README.md triton/ SHA256SUMS
    SHA256SUMS.sig          if somebody signed it, see ``attar.bundle.signatures``

A bundle is checked in these steps. Each number stands again where its step is taken.

    (1) The files are those in SHA256SUMS, and there are no others.
    (2) One of the trusted keys signed SHA256SUMS, if such keys are given.
    (3) The manifest is complete and consistent, in a format that this version reads, and each
        engine that it speaks of is there, with its graphs.
    (4) The engine was run where the bundle was packaged, or the bundle was finished.
    (5) The verdict is ``passed`` and follows from the stored gates.
    (6) The answers of an engine that was finished are as close to its graph's as recorded.
    (7) The machine and the runtime's version are those that the engine was built for.
    (8) The engine repeats its golden answers.
    (9) So do the graphs that other tools run, and ``triton/`` holds what is made of them.

To be opened a bundle takes (1) to (8), ``check_bundle`` takes all. If the machine that packaged a
bundle could not run its engine, the bundle is unfinished: ``attar.bundle.finish`` builds the engine
on a machine that can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType

from attar.bundle import golden, triton
from attar.bundle.accept import check_inputs
from attar.bundle.engine_needs import check_machine, check_runnable, explain_native_refusal
from attar.bundle.engines import open_bundle_engines, replay_engines
from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import MAX_TOLERANCE, BatchEngine, Manifest
from attar.bundle.stored_ledger import check_ledger
from attar.bundle.stored_verdict import check_verdict
from attar.bundle.verified import VerifiedBundle, hold_step_files, open_sealed
from attar.engines.graphs.placement import PLACEMENTS
from attar.models import preprocess
from attar.models.task import Array, Arrays, Predict
from attar.pipeline.core.errors import AttarError, InvalidBundleError, RecipeError
from attar.pipeline.core.stage import Facts

LOADED = "loaded"
"""The fact ``engine`` of a bundle whose engine repeated its golden answers."""


class BundlePredictor(AbstractContextManager["BundlePredictor", None]):
    """Answers requests. Call it with the graph's inputs; ``close`` it or use it in a ``with``."""

    def __init__(self, manifest: Manifest, predictor: Predict, resources: ExitStack) -> None:
        self.manifest = manifest
        self._predictor, self._resources = predictor, resources

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by name for a batch of preprocessed inputs.

        Raises AttarError for inputs that the bundle does not take.
        """
        check_inputs(self.manifest, inputs)
        return self._predictor(inputs)

    def preprocess(self, raw: Arrays) -> dict[str, Array]:
        """Return what the graph reads, made of raw inputs such as strings or pixels of 0 to 255.

        The steps are those that the training ran.
        """
        return preprocess.apply(self.manifest.preprocess, raw)

    def postprocess(self, outputs: Arrays) -> dict[str, Array]:
        """Return the outputs as answers, such as text for tokens; others are unchanged."""
        return preprocess.apply(self.manifest.postprocess, outputs)

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes in the order of the logits; empty for other outputs."""
        return self.manifest.labels

    def close(self) -> None:
        self._resources.close()

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
    """Check the bundle and open its engine, on as many threads as it was built for unless given.

    ``trusted`` is a file of public keys in PEM, one of which must have signed the bundle.
    ``allow_native`` loads an engine that is native code without that, see
    ``Runtime.native_content``. Raises InvalidBundleError, and AttarError for less than one thread.
    """
    if threads is not None and threads < 1:
        raise AttarError(
            f"{path} cannot be opened on {threads} threads; give 1 or more, or none for as many as "
            "it was built for"
        )
    keys = Path(trusted) if trusted is not None else None
    with ExitStack() as stack:
        verified = open_verified(Path(path), trusted=keys, allow_native=allow_native)
        bundle = hold_step_files(stack.enter_context(verified))
        root, manifest = bundle.root, bundle.manifest
        engines = open_bundle_engines(root, manifest, threads, allow_native=bundle.trusts_native)
        predictor = stack.enter_context(engines)
        replay_engines(root, manifest, predictor)  # (8)
        bundle.check_unchanged()
        return BundlePredictor(manifest, predictor, stack.pop_all())


def check_bundle(
    path: str | Path, trusted: Path | None = None, *, allow_native: bool = False
) -> Facts:
    """Take all steps, (1) to (9), and return what they found.

    An engine that is native code is loaded only if a trusted key signed it or ``allow_native`` is
    given; the fact ``engine`` says so. Raises InvalidBundleError for the first step that fails.
    """
    with open_verified(Path(path), trusted=trusted, allow_native=allow_native) as bundle:
        needs = [part.engine for part in bundle.manifest.parts]
        found = [] if bundle.trusts_native else map(explain_native_refusal, needs)
        refusal = next(filter(None, found), None)
        for each in needs if refusal else ():
            check_runnable(each)
        largest_difference = None if refusal else replay_engine(bundle)  # (8)
        check_portable(bundle.root, bundle.manifest)  # (9)
        bundle.check_unchanged()
        return describe_bundle(bundle, refusal, largest_difference)


def describe_bundle(
    bundle: VerifiedBundle, refusal: str | None, largest_difference: float | None
) -> Facts:
    """Return the facts of a check. ``refusal`` says why the engine was not loaded."""
    manifest, seal = bundle.manifest, bundle.seal
    batch = manifest.batch
    pair = {"batch_rows": batch.rows, "batch_runtime": batch.engine.runtime} if batch else {}
    return {
        "bundle": manifest.name,
        "files": len(seal.sums),
        "verdict": manifest.verdict.verdict,
        "finished": manifest.finished and manifest.finished.date,
        "machine": "fits",
        "engine": f"not loaded: {refusal}" if refusal else LOADED,
        "signature": ("valid" if seal.key else "not checked") if seal.signature else None,
        "key": seal.key,
        "golden": {**manifest.golden.model_dump(), "largest_difference": largest_difference},
        **pair,
    }


def replay_engine(bundle: VerifiedBundle) -> float:
    root, manifest = bundle.root, bundle.manifest
    with open_bundle_engines(root, manifest, allow_native=bundle.trusts_native) as predict:
        return replay_engines(root, manifest, predict)


def check_portable(path: Path, manifest: Manifest) -> None:
    """Check the graphs that other tools run.

    Raises InvalidBundleError if their answers are not the engine's, or not those that were recorded
    of them, or if ``triton/`` holds anything else.
    """
    for part in manifest.parts:
        check_graphs(path, manifest, part)
    triton.check_repository(path, manifest, golden.load_requests(path, manifest))


def check_graphs(path: Path, manifest: Manifest, part: Manifest | BatchEngine) -> None:
    """Check the graphs that one engine was built from."""
    from attar.engines.runtimes import onnxruntime

    files = {name: path / part.folder / "graphs" / f"{name}.onnx" for name in manifest.graphs}
    hop = "model" if "model" in manifest.answered else part.hop
    needs = part.engine
    tolerance = max(MAX_TOLERANCE, golden.find_tolerance(needs))
    placement = PLACEMENTS.get(needs.runtime)
    with (
        blame_bundle(f"the graphs of {path} do not open"),
        onnxruntime.open_session(
            files,
            needs.threads,
            precision=needs.precision,
            placement=placement.name if placement else None,
        ) as predict,
    ):
        try:
            golden.replay_requests(path, manifest, predict, tolerance, hop)
        except InvalidBundleError as error:
            problem = f"{part.folder}graphs/ is not what the engine was built from: {error}"
            raise InvalidBundleError(problem) from error


def open_verified(
    path: Path, *, gated: bool = True, trusted: Path | None = None, allow_native: bool = False
) -> VerifiedBundle:
    """Return a bundle that is whole, fit to serve and for this machine: steps (1) to (7).

    ``gated=False`` leaves step (5) out. ``allow_native`` says that whoever gets the bundle may load
    its engine, whoever made it. Raises InvalidBundleError.
    """
    checks = [*list_whole_checks(gated), check_machines]
    return open_sealed(path, trusted, checks, allow_native=allow_native)


def open_whole(path: Path, *, gated: bool = True, trusted: Path | None = None) -> VerifiedBundle:
    """Return a bundle for any machine: steps (1) to (6), without (5) if it is not ``gated``."""
    return open_sealed(path, trusted, list_whole_checks(gated))


def open_unfinished(path: Path, trusted: Path | None = None) -> VerifiedBundle:
    """Return a bundle that lacks nothing but its engine.

    Raises InvalidBundleError, and RecipeError if it has its engine.
    """
    return open_sealed(path, trusted, [check_unfinished])


def list_whole_checks(gated: bool) -> list[Callable[[VerifiedBundle], None]]:
    return [check_engine_was_run, *([check_gates] if gated else []), check_finished_engine]


def check_machines(bundle: VerifiedBundle) -> None:
    """Take step (7)."""
    for part in bundle.manifest.parts:
        check_machine(part.engine)


def check_engine_was_run(bundle: VerifiedBundle) -> None:
    """Take step (4)."""
    path, manifest = bundle.path, bundle.manifest
    if manifest.unfinished:
        raise InvalidBundleError(
            f"{path} is unfinished: its {manifest.engine.runtime} engine was not run where it was "
            f"packaged ({manifest.not_run_here}); run `attar finish {path} -o DIR` on a machine "
            "that can"
        )


def check_gates(bundle: VerifiedBundle) -> None:
    """Take step (5). The verdict of a bundle that was finished may leave the engine out."""
    manifest = bundle.manifest
    was_not_run = manifest.unfinished or manifest.finished is not None
    for part in manifest.parts:
        check_verdict(bundle.path, part.verdict, part.ledger, finished=was_not_run)
        check_ledger(bundle.path, part.verdict, part.ledger)


def check_finished_engine(bundle: VerifiedBundle) -> None:
    """Take step (6)."""
    if bundle.manifest.finished:
        golden.check_finished(bundle.root, bundle.manifest)


def check_unfinished(bundle: VerifiedBundle) -> None:
    path, manifest = bundle.path, bundle.manifest
    if not manifest.unfinished:
        finished, verdict = manifest.finished, manifest.verdict.verdict
        state = f"was finished on {finished.date}" if finished else f"has the verdict {verdict}"
        raise RecipeError(
            f"{path} {state}, nothing of it is unfinished; `attar check {path}` says whether it "
            "fits this machine"
        )
    check_gates(bundle)
    check_portable(bundle.root, manifest)

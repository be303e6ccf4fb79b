"""Finish an unfinished bundle.

The machine that packaged it could not run its engine. The engine is built here and compared with
the graph that it is built from.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums, golden, triton
from attar.bundle import opening as bundles
from attar.bundle.card import render_card
from attar.bundle.checksums import Checksums
from attar.bundle.engine_needs import make_build_spec
from attar.bundle.engines import open_engine
from attar.bundle.finished import Finished
from attar.bundle.fitness import blame_bundle
from attar.bundle.manifest import Manifest
from attar.bundle.verified import locate_manifest, read_manifest
from attar.engines.runtimes import runtime as runtimes
from attar.engines.runtimes.runtime import Runtime
from attar.models.task import Array
from attar.pipeline.core.errors import (
    InvalidBundleError,
    MissingDependencyError,
    RecipeError,
    StageError,
    StoreError,
)
from attar.pipeline.core.stage import Facts
from attar.pipeline.keys import machine


def finish_bundle(path: str | Path, out: str | Path, trusted: Path | None = None) -> Facts:
    """Write to ``out`` the bundle with an engine of this machine, and return what a check says.

    The engine answers the golden requests as its graph does (see ``Runtime.tolerances``); no gate
    is measured. ``trusted`` are keys, one of which must have signed the bundle; what is written is
    another bundle, and not signed.

    Raises InvalidBundleError for a bundle that is not whole, and if this machine cannot build or
    run the engine or the engine answers otherwise; RecipeError for a bundle that has its engine,
    and for a folder that holds something. Nothing is written then.
    """
    bundle = Path(path)
    with bundles.open_unfinished(bundle, trusted) as unfinished:
        runtime = require_runtime(bundle, unfinished.manifest)
        with fill_folder(Path(out), bundle) as folder:
            copy_sealed_files(unfinished.root, folder, unfinished.seal)
            checksums.verify_checksums(folder, unfinished.seal)
            complete_bundle(folder, locate_manifest(read_manifest(folder), folder), runtime)
            return bundles.check_bundle(folder, allow_native=True)  # it was built here, just now


def require_runtime(bundle: Path, manifest: Manifest) -> Runtime:
    """Return the runtime of its engine.

    Raises InvalidBundleError, with what is missing, if it cannot run here.
    """
    needs = manifest.engine
    with blame_bundle(f"{bundle} cannot be finished here"):
        runtime = runtimes.load_runtime(needs.runtime)
        runtime.describe_environment()
        spec = make_build_spec(needs)
        missing = runtime.explain_unbuildable(spec) or runtime.explain_unrunnable(spec)
    if missing:
        raise InvalidBundleError(
            f"{bundle} cannot be finished here: {missing}; run `attar finish` on a machine that "
            f"can run {runtime.title}"
        )
    return runtime


@contextmanager
def fill_folder(out: Path, bundle: Path) -> Iterator[Path]:
    """Give a folder to fill. It takes the place of ``out`` once the block ends, or is removed.

    Raises RecipeError if something is in the way, StoreError if the disk does not take it.
    """
    place = out.absolute()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise RecipeError(f"{out} is there and not an empty folder; choose another -o")
    if place.resolve().is_relative_to(bundle.resolve()):
        raise RecipeError(f"{out} is inside {bundle}, which is never changed; choose another -o")
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        partial.mkdir(parents=True)
        yield partial
        partial.rename(place)
    except OSError as error:
        raise StoreError(
            f"cannot write {out}: {error.strerror or error}; free some space or choose another -o"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_sealed_files(bundle: Path, folder: Path, seal: Checksums) -> None:
    """Copy the files in SHA256SUMS, and nothing else."""
    for name in seal.sums:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, folder / name)
    (folder / checksums.SUMS).write_bytes(seal.content)


def complete_bundle(folder: Path, manifest: Manifest, runtime: Runtime) -> None:
    """Give an unfinished bundle its engine, the engine's golden answers, and the record of both."""
    requests = golden.load_requests(folder, manifest)
    build_engine(folder, manifest, runtime)
    environment = runtime.describe_environment()
    update = {"version": environment.version, "machine": dict(environment.machine)}
    needs = manifest.engine.model_copy(update=update)
    built = manifest.model_copy(update={"engine": needs})
    tensors = answer_requests(folder, built)
    save_file(tensors, folder / golden.FILE)
    done = describe_finish(built, golden.check_engine_answers(folder, built, tensors))
    finished = read_manifest(folder).model_copy(update={"engine": needs, "finished": done})
    (folder / "manifest.json").write_text(finished.model_dump_json(indent=1), encoding="utf-8")
    (folder / "README.md").write_text(render_card(finished), encoding="utf-8")
    shutil.rmtree(folder / "triton")
    triton.write_repository(folder / "triton", finished, folder, requests)
    checksums.write_checksums(folder)


def build_engine(folder: Path, manifest: Manifest, runtime: Runtime) -> None:
    """Build the engine from ``graphs/``, also if there is one already: that was never run."""
    engines = folder / "engines"
    shutil.rmtree(engines, ignore_errors=True)
    place = engines / manifest.engine.runtime
    place.mkdir(parents=True)
    spec = make_build_spec(manifest.engine)
    try:
        for name in manifest.graphs:
            source = folder / "graphs" / f"{name}.onnx"
            runtime.build(source, place / f"{name}{runtime.suffix}", spec)
    except (StageError, MissingDependencyError) as error:
        raise InvalidBundleError(f"the engine cannot be built here: {error}") from error


def answer_requests(folder: Path, manifest: Manifest) -> dict[str, Array]:
    """Return the golden requests as they are stored, with the engine's answers added."""
    inputs = golden.preprocess_requests(folder, manifest, golden.read_golden(folder, manifest))
    unanswered = blame_bundle("the engine does not answer the golden requests")
    with open_engine(folder, manifest, allow_native=True) as predict, unanswered:
        answers = golden.predict_in_batches(
            predict, inputs, manifest.ranges.get("batch", (1, 1))[1]
        )
        new = {f"engine.{name}": np.ascontiguousarray(answers[name]) for name in manifest.outputs}
    return {**load_file(folder / golden.FILE), **new}


def describe_finish(manifest: Manifest, largest: float) -> Finished:
    return Finished(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        attar=version("attar"),
        machine=machine.describe_machine(),
        requests=manifest.golden.requests,
        largest_difference=largest,
    )

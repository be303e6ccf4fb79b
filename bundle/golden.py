"""Golden requests: ``golden.safetensors`` as the manifest says that it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from attar.bundle import ragged
from attar.bundle.accept import check_tensors
from attar.bundle.finished import compare_with_graph, compute_difference, limit_difference
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import EngineRequirements, Manifest
from attar.engines.runtimes.runtime import load_runtime
from attar.models import preprocess
from attar.models.task import Arrays, Predict
from attar.models.tensors import Array, find_mismatch
from attar.pipeline.core.errors import InvalidBundleError

FILE = "golden.safetensors"


def read_golden(bundle: Path, manifest: Manifest) -> dict[str, Array]:
    """Return ``raw.INPUT`` and the answers that the manifest names, with a row for each request.

    Raises InvalidBundleError for anything else.
    """
    path = bundle / FILE
    with blame_bundle(f"{path} cannot be read"):
        tensors = ragged.decode_samples(load_file(path))
    if wrong := find_problem(tensors, manifest):
        raise InvalidBundleError(f"{path} is not what the manifest says: {wrong}. {AGAIN}")
    return tensors


def load_requests(path: Path, manifest: Manifest) -> dict[str, Array]:
    """Return the golden requests, preprocessed."""
    return preprocess_requests(path, manifest, read_golden(path, manifest))


def preprocess_requests(path: Path, manifest: Manifest, tensors: Arrays) -> dict[str, Array]:
    """Return what the graph reads.

    Raises InvalidBundleError if the bundle's steps do not make that of its requests.
    """
    with blame_bundle(f"{path} does not preprocess its own golden requests"):
        raw = {name: tensors[f"raw.{name}"] for name in manifest.inputs}
        inputs = preprocess.apply(manifest.preprocess, raw)
        check_tensors(manifest, inputs)
    return inputs


def replay_requests(
    path: Path,
    manifest: Manifest,
    predict: Predict,
    tolerance: float | None = None,
    hop: str = "engine",
) -> float:
    """Return how far new answers to the golden requests are from those stored of this hop.

    Raises InvalidBundleError if that is more than the tolerance, which is the bundle's own unless
    it is given.
    """
    stored = read_golden(path, manifest)
    inputs = preprocess_requests(path, manifest, stored)
    with blame_bundle(f"{path} does not answer its golden requests"):
        answers = predict_in_batches(predict, inputs, manifest.ranges.get("batch", (1, 1))[1])
        differences = {
            name: compute_difference(stored[f"{hop}.{name}"], answers[name])
            for name in manifest.outputs
            if name in answers
        }
    if missing := manifest.outputs.keys() - answers.keys():
        raise InvalidBundleError(
            f"{path} does not answer {min(missing)!r}, which its manifest names; it answers "
            f"{', '.join(answers)}. {AGAIN}"
        )
    for name, difference in differences.items():
        allowed = limit_difference(
            manifest.outputs[name].kind, tolerance or manifest.golden.tolerance
        )
        if not difference <= allowed:
            raise InvalidBundleError(
                f"{path} does not repeat its golden answers: {name!r} is off by {difference:.2g} "
                f"of its magnitude, allowed {allowed:g}; this runtime computes something else, so "
                "build the engine here"
            )
    return max(differences.values())


def predict_in_batches(predict: Predict, inputs: Arrays, batch: int) -> dict[str, Array]:
    """Return the answers to any number of samples, in calls of at most ``batch``."""
    samples = len(next(iter(inputs.values())))
    parts = [
        predict({name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, samples, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_finished(bundle: Path, manifest: Manifest) -> None:
    """Check the answers of an engine that another machine built.

    Raises InvalidBundleError if they are not as close to the graph's as the bundle says, or as its
    precision needs.
    """
    difference = check_engine_answers(bundle, manifest, read_golden(bundle, manifest))
    recorded = manifest.finished and manifest.finished.largest_difference
    if difference != recorded:
        raise InvalidBundleError(
            f"{bundle} says that its engine is off by {recorded} of its graph, its answers say "
            f"{difference}. {AGAIN}"
        )


def find_tolerance(needs: EngineRequirements) -> float:
    """Return how far an engine may be from its graph.

    Raises InvalidBundleError for an unknown runtime.
    """
    with blame_bundle(f"the engine needs {needs.runtime}"):
        return load_runtime(needs.runtime).get_tolerance(needs.precision, needs.provider)


def check_engine_answers(bundle: Path, manifest: Manifest, tensors: Arrays) -> float:
    """Return how far the engine's golden answers are from its graph's.

    Raises InvalidBundleError if that is more than its precision explains.
    """
    needs, differences = manifest.engine, compare_with_graph(tensors)
    tolerance = find_tolerance(needs)
    for name, difference in differences.items():
        allowed = limit_difference(manifest.outputs[name].kind, tolerance)
        if not difference <= allowed:
            raise InvalidBundleError(
                f"{bundle}: its engine answers otherwise than the graph that it was built from: "
                f"{name!r} is off by {difference:.2g} of its magnitude, allowed for "
                f"{needs.precision} {allowed:g}"
            )
    return max(differences.values())


def find_problem(tensors: Arrays, manifest: Manifest) -> str | None:
    """Return the first thing that is wrong with the tensors, or None."""
    answered = {
        f"{who}.{name}": output
        for who in manifest.answered
        for name, output in manifest.output_specs.items()
    }
    expected = {*answered, *(f"raw.{name}" for name in manifest.inputs)}
    if tensors.keys() != expected:
        names = ", ".join(sorted(tensors)) or "nothing"
        return f"it holds {names}, expected {', '.join(sorted(expected))}"
    requests = manifest.golden.requests
    for name, array in tensors.items():
        if array.shape[:1] != (requests,):
            return f"{name} is of shape {list(array.shape)}, expected {requests} requests"
    for name, output in answered.items():
        array = tensors[name]
        if array.size == 0:  # anything would repeat an empty answer
            return f"{name} is empty"
        dtype = None if name.startswith("teacher.") else array.dtype
        if mismatch := find_mismatch(output, array.shape, dtype):
            return f"{name} {mismatch}"
    return None

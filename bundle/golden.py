"""Golden requests: ``golden.safetensors`` as the manifest says that it is."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from attar.bundle import ragged
from attar.bundle.finished import compare_with_graph
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import EngineRequirements, Manifest
from attar.engines.runtimes.runtime import load_runtime
from attar.models.task import Arrays
from attar.models.tensors import Array, find_mismatch
from attar.pipeline.core.errors import InvalidBundleError

FILE = "golden.safetensors"


def read_golden(bundle: Path, manifest: Manifest) -> dict[str, Array]:
    """``raw.INPUT`` and the answers that the manifest names, each with a row a request. Raises
    InvalidBundleError for anything else."""
    path = bundle / FILE
    with blame_bundle(f"{path} cannot be read"):
        tensors = ragged.decode_samples(load_file(path))
    if wrong := find_problem(tensors, manifest):
        raise InvalidBundleError(f"{path} is not what the manifest says: {wrong}. {AGAIN}")
    return tensors


def check_finished(bundle: Path, manifest: Manifest) -> None:
    """Raises InvalidBundleError where the engine's answers are not as close to its graph's as the
    bundle says, or as its precision needs."""
    distance = check_engine_answers(bundle, manifest.engine, read_golden(bundle, manifest))
    said = manifest.finished and manifest.finished.largest_difference
    if distance != said:
        raise InvalidBundleError(
            f"{bundle} says that its engine is off by {said} of its graph, its answers say "
            f"{distance}. {AGAIN}"
        )


def find_tolerance(needs: EngineRequirements) -> float:
    """How far an engine may be from its graph. Raises InvalidBundleError for a runtime that is
    none."""
    with blame_bundle(f"the engine needs {needs.runtime}"):
        return load_runtime(needs.runtime).get_tolerance(needs.precision)


def check_engine_answers(bundle: Path, needs: EngineRequirements, tensors: Arrays) -> float:
    """How far the engine's answers are from its graph's. Raises InvalidBundleError where that is
    more than its precision explains."""
    distance, allowed = max(compare_with_graph(tensors).values()), find_tolerance(needs)
    if not distance <= allowed:
        raise InvalidBundleError(
            f"{bundle}: its engine answers otherwise than the graph that it was built from: off by "
            f"{distance:.2g} of their magnitude, allowed for {needs.precision} {allowed:g}"
        )
    return distance


def find_problem(tensors: Arrays, manifest: Manifest) -> str | None:
    """The first thing that is wrong with them; None if nothing is."""
    answered = {
        f"{who}.{name}": output
        for who in manifest.answered
        for name, output in manifest.output_specs.items()
    }
    wanted = {*answered, *(f"raw.{name}" for name in manifest.inputs)}
    if tensors.keys() != wanted:
        return (
            f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected "
            f"{', '.join(sorted(wanted))}"
        )
    for name, array in tensors.items():
        if array.shape[:1] != (manifest.golden.requests,):
            return (
                f"{name} is of shape {list(array.shape)}, expected {manifest.golden.requests} "
                "requests"
            )
    for name, output in answered.items():
        array = tensors[name]
        if array.size == 0:  # anything would repeat an empty answer
            return f"{name} is empty"
        dtype = None if name.startswith("teacher.") else array.dtype
        if mismatch := find_mismatch(output, array.shape, dtype):
            return f"{name} {mismatch}"
    return None

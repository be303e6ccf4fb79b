"""Golden requests: ``golden.safetensors`` as the manifest says that it is."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from attar.bundle import ragged
from attar.bundle.finished import compare_with_graph
from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.manifest import EngineRequirements, Manifest, Output
from attar.engines.runtimes.runtime import load_runtime
from attar.models.task import Array, Arrays
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
            f"{bundle} says that its engine is off by {said} of its graph, its answers say {distance}. {AGAIN}"
        )


def find_tolerance(needs: EngineRequirements) -> float:
    """How far an engine may be from its graph. Raises InvalidBundleError for a runtime that is none."""
    with blame_bundle(f"the engine needs {needs.runtime}"):
        return load_runtime(needs.runtime).get_tolerance(needs.precision)


def check_engine_answers(bundle: Path, needs: EngineRequirements, tensors: Arrays) -> float:
    """How far the engine's answers are from its graph's. Raises InvalidBundleError where that is
    more than its precision explains."""
    distance, allowed = max(compare_with_graph(tensors).values()), find_tolerance(needs)
    if not distance <= allowed:
        raise InvalidBundleError(
            f"{bundle}: its engine answers otherwise than the graph that it was built from: off by {distance:.2g} of their "
            f"magnitude, allowed for {needs.precision} {allowed:g}"
        )
    return distance


def find_problem(tensors: Arrays, manifest: Manifest) -> str | None:
    """The first thing that is wrong with them; None if nothing is."""
    answered = {
        f"{who}.{name}": output
        for who in manifest.answered
        for name, output in manifest.outputs.items()
    }
    wanted = {*answered, *(f"raw.{name}" for name in manifest.inputs)}
    if tensors.keys() != wanted:
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(wanted))}"
    for name, array in tensors.items():
        if array.shape[:1] != (manifest.golden.requests,):
            return f"{name} is of shape {list(array.shape)}, expected {manifest.golden.requests} requests"
    for name, output in answered.items():
        if not fits_axes(tensors[name], output) or (
            not name.startswith("teacher.") and tensors[name].dtype != output.dtype
        ):
            axes = ", ".join(map(str, output.axes))
            return f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}, expected {output.dtype}[{axes}]"
    return None


def fits_axes(array: Array, output: Output) -> bool:
    """By its axes, none of them empty: an empty answer would be repeated by anything."""
    if array.ndim != len(output.axes) or array.size == 0:
        return False
    return all(
        axis == size
        for axis, size in zip(output.axes, array.shape, strict=True)
        if isinstance(axis, int)
    )
